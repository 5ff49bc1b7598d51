#include "base/config_private.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define MILLION INT64_C(1000000)

/* What driver = ec2 cannot do without; each key by itself is checked as any other. */

static void need(struct config_load *l, const char *name, const char *text, const char *remedy)
{
    const struct config_key *driver = config_key_get("driver");

    if (!config_origin_of(l, config_key_get(name))->bad && !text[0])
        config_problem(l, driver, config_origin_of(l, driver), l->config->driver, "needs %s; %s",
                       name, remedy);
}

/* ---- money ---- */

static int64_t money(const char *text, size_t len)
{
    int64_t whole = 0, part = 0, unit = MILLION;
    size_t i = 0;

    for (; i < len && text[i] >= '0' && text[i] <= '9' && whole < MILLION; i++)
        whole = 10 * whole + (text[i] - '0');
    if (i == 0)
        return -1;
    if (i < len && text[i] == '.')
        for (i++; i < len && text[i] >= '0' && text[i] <= '9' && unit > 1; i++) {
            unit /= 10;
            part += (text[i] - '0') * unit;
        }
    return i == len ? whole * MILLION + part : -1;
}

int64_t config_money(const char *text)
{
    return money(text, strlen(text));
}

/* The next "NAME=PRICE" of a comma list; NULL at its end. */
static const char *next_price(const char **at, size_t *ret_len)
{
    *at += strspn(*at, " ,");
    size_t len = strcspn(*at, " ,");
    const char *item = *at;

    *at += len;
    *ret_len = len;
    return len > 0 ? item : NULL;
}

/* That of a name, -1 when it has none. */
static int64_t price_of(const char *prices, const char *name)
{
    size_t len, name_len = strlen(name);

    for (const char *item; (item = next_price(&prices, &len)) != NULL;)
        if (len > name_len && memcmp(item, name, name_len) == 0 && item[name_len] == '=')
            return money(item + name_len + 1, len - name_len - 1);
    return -1;
}

int64_t config_ec2_price(const char *prices, const char *type, bool spot)
{
    cleanup_free char *name = xasprintf("%s/spot", type);
    int64_t price = spot ? price_of(prices, name) : -1;

    return price >= 0 ? price : price_of(prices, type);
}

static void check_prices(struct config_load *l)
{
    const struct config *c = l->config;
    const struct config_key *prices = config_key_get("ec2_prices");
    const struct config_key *most = config_key_get("ec2_cost_max");
    const char *at = c->ec2_prices;
    size_t len;

    if (c->ec2_cost_max[0] && config_money(c->ec2_cost_max) <= 0)
        config_problem(l, most, config_origin_of(l, most), c->ec2_cost_max,
                       "is not an amount; give one such as 1.50, in the currency of ec2_prices");
    for (const char *item; (item = next_price(&at, &len)) != NULL;) {
        const char *equals = memchr(item, '=', len);
        if (!equals || equals == item || money(equals + 1, len - (size_t)(equals - item) - 1) < 0)
            config_problem(l, prices, config_origin_of(l, prices), c->ec2_prices,
                           "holds %.*s, which is not TYPE=PRICE; write such as c6i.large=0.085",
                           (int)len, item);
    }
    at = c->ec2_types;
    for (const char *item; c->ec2_cost_max[0] && (item = next_price(&at, &len)) != NULL;) {
        cleanup_free char *type = xstrndup(item, len);
        if (config_ec2_price(c->ec2_prices, type, false) < 0)
            config_problem(l, prices, config_origin_of(l, prices), c->ec2_prices,
                           "has no price of %s, so ec2_cost_max could not be kept; add %s=PRICE",
                           type, type);
    }
}

/* ---- all together ---- */

void config_ec2_apply(struct config_load *l)
{
    const struct config *c = l->config;
    const struct config_key *boot = config_key_get("ec2_boot_ms");
    const struct config_key *min = config_key_get("ec2_min");

    if (strcmp(c->driver, "ec2") != 0)
        return;
    need(l, "ec2_types", c->ec2_types, "name instance types, such as c6i.large,c6a.large");
    need(l, "ssh_key", c->ssh_key, "name the file of the private key that instances know");
    if (c->ec2_boot_ms > c->init_timeout_ms && !config_origin_of(l, boot)->bad)
        config_problem(l, boot, config_origin_of(l, boot), NULL,
                       "is longer than init_timeout_ms, so jobs would give up on an instance that "
                       "boots; raise init_timeout_ms");
    check_prices(l);
    if (c->ec2_min > c->ec2_max && !config_origin_of(l, min)->bad)
        config_problem(l, min, config_origin_of(l, min), NULL,
                       "is above ec2_max; raise ec2_max or lower ec2_min");
}
