#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define POLL_MS     1000
#define END_MS      15000
#define SEEN_MS     60000 /* by then EC2 knows all that it has made */
#define GRACE_S     3600  /* beyond its age and the longest job, before an instance ends itself */
#define CONSOLE_MAX 262144

bool ec2_item(const char *list, size_t at, char out[], size_t size)
{
    for (;; at--) {
        list += strspn(list, " ,");
        size_t len = strcspn(list, " ,");
        if (len == 0)
            return false;
        if (at == 0) {
            snprintf(out, size, "%.*s", (int)len, list);
            return true;
        }
        list += len;
    }
}

/* ---- asking for one ---- */

/* It ends itself, should nobody be left to end it. */
static char *user_data(const struct config *cfg)
{
    int64_t minutes = (cfg->ec2_max_age_s + cfg->job_timeout_max_s + GRACE_S) / 60;
    cleanup_free char *script = xasprintf("#!/bin/sh\nshutdown -P +%lld\n", (long long)minutes);
    size_t len = strlen(script);
    char *encoded = xmalloc(4 * ((len + 2) / 3) + 1);

    EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)script, (int)len);
    return encoded;
}

static void tag(struct buf *form, int set, int n, const char *key, const char *value)
{
    ec2_param(form, key, "TagSpecification.%d.Tag.%d.Key", set, n);
    ec2_param(form, value, "TagSpecification.%d.Tag.%d.Value", set, n);
}

static void tags(const struct ec2 *e, struct buf *form, const struct ssh_host *h, const char *token)
{
    static const char *const kinds[] = {"instance", "volume"};
    cleanup_free char *name = xasprintf("%s-%s", e->cfg->prefix, h->at.spec->name);

    for (int i = 0; i < 2; i++) {
        ec2_param(form, kinds[i], "TagSpecification.%d.ResourceType", i + 1);
        tag(form, i + 1, 1, "Name", name);
        tag(form, i + 1, 2, EC2_TAG_DEPLOYMENT, e->cfg->deployment);
        tag(form, i + 1, 3, EC2_TAG_VMM, e->cfg->vmm_name);
        tag(form, i + 1, 4, EC2_TAG_TOKEN, token);
    }
}

/* Where and how one is asked for. */
struct offer {
    char type[48];
    char subnet[64]; /* "" for EC2's choice */
    bool spot;
};

/* lt-ID or NAME, and :VERSION. What stands beside it in the form wins over it. */
static void template(const char *text, struct buf *form)
{
    size_t len = strcspn(text, ":");
    cleanup_free char *name = xstrndup(text, len);

    ec2_param(form, name, "LaunchTemplate.%s",
              strncmp(name, "lt-", 3) == 0 ? "LaunchTemplateId" : "LaunchTemplateName");
    ec2_param(form, text[len] ? text + len + 1 : "$Default", "LaunchTemplate.Version");
}

/* Never above what is reserved for it. */
static void spot_price(const struct config *cfg, const char *type, struct buf *form)
{
    cleanup_free char *most = NULL;
    int64_t price = config_ec2_price(cfg->ec2_prices, type, true);

    if (price <= 0)
        return;
    most = xasprintf("%lld.%06lld", (long long)(price / 1000000), (long long)(price % 1000000));
    ec2_param(form, most, "InstanceMarketOptions.SpotOptions.MaxPrice");
}

static void run_form(const struct ec2 *e, const struct ssh_host *h, const char *ami,
                     const struct offer *o, const char *token, struct buf *form)
{
    const struct config *cfg = e->cfg;
    cleanup_free char *data = user_data(cfg);
    char group[64];

    ec2_form(form, "RunInstances");
    if (cfg->ec2_template[0])
        template(cfg->ec2_template, form);
    ec2_param(form, ami, "ImageId");
    ec2_param(form, o->type, "InstanceType");
    ec2_param(form, "1", "MinCount");
    ec2_param(form, "1", "MaxCount");
    ec2_param(form, token, "ClientToken");
    ec2_param(form, "terminate", "InstanceInitiatedShutdownBehavior");
    ec2_param(form, "required", "MetadataOptions.HttpTokens");
    ec2_param(form, "1", "MetadataOptions.HttpPutResponseHopLimit");
    ec2_param(form, data, "UserData");
    if (cfg->ec2_key_name[0])
        ec2_param(form, cfg->ec2_key_name, "KeyName");
    if (o->subnet[0])
        ec2_param(form, o->subnet, "SubnetId");
    for (size_t i = 0; ec2_item(cfg->ec2_security_groups, i, group, sizeof(group)); i++)
        ec2_param(form, group, "SecurityGroupId.%zu", i + 1);
    if (cfg->ec2_instance_profile[0])
        ec2_param(form, cfg->ec2_instance_profile, "IamInstanceProfile.Name");
    if (o->spot) {
        ec2_param(form, "spot", "InstanceMarketOptions.MarketType");
        ec2_param(form, "one-time", "InstanceMarketOptions.SpotOptions.SpotInstanceType");
        ec2_param(form, "terminate",
                  "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior");
        spot_price(cfg, o->type, form);
    }
    tags(e, form, h, token);
}

static int ask_for(struct ec2 *e, struct ssh_host *h, const char *ami, const struct offer *o,
                   int64_t deadline, struct ec2_outcome *outcome, struct error *err)
{
    struct ec2_place *p = h->lent;
    struct buf form cleanup_buf = BUF_INIT(0);
    struct xml *x = NULL;
    int64_t cost = config_ec2_price(e->cfg->ec2_prices, o->type, o->spot);
    char token[EC2_TOKEN_MAX];

    /* A new one for each offer; ec2_call may repeat it, and gets the same instance. */
    int r = ec2_ledger_claim(e->ledger, cost > 0 ? cost : 0, deadline, token, err);
    if (r < 0) {
        *outcome = (struct ec2_outcome){.trouble = r == -ENOSPC ? EC2_CAPACITY : EC2_AWAY};
        return r;
    }
    pthread_mutex_lock(&e->b->set.lock);
    snprintf(p->token, sizeof(p->token), "%s", token);
    p->unsure = true;
    pthread_mutex_unlock(&e->b->set.lock);
    run_form(e, h, ami, o, token, &form);
    r = ec2_call(e->api, &form, deadline, &x, outcome, err);
    if (r < 0) {
        pthread_mutex_lock(&e->b->set.lock);
        p->unsure = outcome->unsure;
        if (!p->unsure)
            p->token[0] = '\0';
        pthread_mutex_unlock(&e->b->set.lock);
        if (!outcome->unsure)
            ec2_ledger_drop(e->ledger, token);
        return r;
    }
    const char *id = xml_text(x, "instancesSet/item/instanceId");
    pthread_mutex_lock(&e->b->set.lock);
    snprintf(p->instance, sizeof(p->instance), "%s", id);
    snprintf(p->type, sizeof(p->type), "%s", o->type);
    snprintf(p->spot, sizeof(p->spot), "%s",
             xml_text(x, "instancesSet/item/spotInstanceRequestId"));
    p->made_ms = p->idle_ms = clock_mono_ms();
    p->unsure = id[0] == '\0';
    bool spot = p->spot[0] != '\0';
    pthread_mutex_unlock(&e->b->set.lock);
    if (spot)
        event_signal(e->wake_fd); /* whose notices are looked for */
    log_event(LOG_INFO_, "ec2.instance", "host", h->at.spec->name, "instance", id, "image", ami,
              "type", o->type, "subnet", o->subnet, "market", o->spot ? "spot" : "on-demand", NULL);
    r = id[0] ? 0 : err_set(err, ERR_TEMPORARY, EPROTO, "RunInstances: no instance in the answer");
    xml_free(x);
    return r;
}

static bool stopped(const struct ec2 *e)
{
    return event_wait(e->b->set.stop_fd, 0);
}

/* All types in all subnets, spot first; the next one only where there is no room. */
static int launch(struct ec2 *e, struct ssh_host *h, const char *ami, const char *only_type,
                  int64_t deadline, struct error *err)
{
    const struct config *cfg = e->cfg;
    struct offer o = {.spot = cfg->ec2_spot};
    struct ec2_outcome outcome;
    int r = err_set(err, ERR_PERMANENT, EINVAL, "ec2_types names no instance type");

    for (;; o.spot = false) {
        for (size_t t = 0; ec2_item(cfg->ec2_types, t, o.type, sizeof(o.type)); t++) {
            if (only_type[0] && strcmp(only_type, o.type) != 0)
                continue;
            for (size_t s = 0; ec2_item(cfg->ec2_subnets, s, o.subnet, sizeof(o.subnet)) ||
                               (s == 0 && (o.subnet[0] = '\0', true));
                 s++) {
                if (stopped(e))
                    return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
                r = ask_for(e, h, ami, &o, deadline, &outcome, err);
                if (r == 0 || outcome.trouble != EC2_CAPACITY || outcome.unsure)
                    return r;
                log_event(LOG_INFO_, "ec2.full", "type", o.type, "subnet", o.subnet, "market",
                          o.spot ? "spot" : "on-demand", "reason", err->msg, NULL);
            }
        }
        if (!o.spot)
            return r;
    }
}

/* ---- until it can be logged in to ---- */

static bool pause_until(const struct ec2 *e, int64_t deadline)
{
    int64_t next = clock_mono_ms() + POLL_MS;

    return next < deadline && !event_wait(e->b->set.stop_fd, next);
}

static int late(struct ec2 *e, const struct ec2_place *p, const char *what, struct error *err)
{
    if (stopped(e))
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    return err_set(err, ERR_TEMPORARY, ETIMEDOUT, "instance %s: %s within ec2_boot_ms", p->instance,
                   what);
}

static int await_running(struct ec2 *e, struct ssh_host *h, int64_t deadline, struct error *err)
{
    const struct ec2_place *p = h->lent;
    const char *which = e->cfg->ec2_public ? "ipAddress" : "privateIpAddress";
    struct buf form cleanup_buf = BUF_INIT(0);

    ec2_form(&form, "DescribeInstances");
    ec2_param(&form, p->instance, "InstanceId.1");
    do {
        struct ec2_outcome outcome;
        struct xml *x = NULL;
        int r = ec2_call(e->api, &form, deadline, &x, &outcome, err);
        if (r < 0 && outcome.trouble == EC2_GONE)
            continue; /* not there yet for whoever asks so soon */
        if (r < 0)
            return clock_mono_ms() < deadline ? r : late(e, p, "not running", err);
        const struct xml *i = xml_find(x, "reservationSet/item/instancesSet/item");
        const char *state = i ? xml_text(i, "instanceState/name") : "pending";
        bool runs = strcmp(state, "running") == 0 && xml_text(i, which)[0];
        if (runs)
            snprintf(h->reach.address, sizeof(h->reach.address), "%s", xml_text(i, which));
        else if (strcmp(state, "pending") != 0 && strcmp(state, "running") != 0)
            r = err_set(err, ERR_TEMPORARY, EIO, "instance %s is %.40s: %.200s", p->instance, state,
                        xml_text(i, "stateReason/message"));
        xml_free(x);
        if (runs || r < 0)
            return r;
    } while (pause_until(e, deadline));
    return late(e, p, "it has no address", err);
}

/* A line's "type key" of a public host key, at *ret_len. */
static const char *host_key(const char *line, size_t len, size_t *ret_len)
{
    static const char *const types[] = {"ssh-ed25519 ", "ecdsa-sha2-nistp256 ", "ssh-rsa "};

    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        const char *at = memmem(line, len, types[i], strlen(types[i]));
        if (!at)
            continue;
        size_t key = strlen(types[i]);
        size_t body = strspn(at + key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                       "0123456789+/=");
        *ret_len = key + body;
        return body > 40 ? at : NULL;
    }
    return NULL;
}

bool ec2_console_keys(const char *text, const char *alias, struct buf *out)
{
    static const char first[] = "-----BEGIN SSH HOST KEY KEYS-----",
                      last[] = "-----END SSH HOST KEY KEYS-----";
    const char *from = NULL, *to = NULL;
    bool any = false;

    /* the last whole block: of the last boot */
    for (const char *p = text; (p = strstr(p, first)) != NULL; p += strlen(first)) {
        const char *end = strstr(p, last);
        if (end) {
            from = p + strlen(first);
            to = end;
        }
    }
    while (from && from < to) {
        size_t len = strcspn(from, "\n"), key_len;
        const char *key = host_key(from, len, &key_len);
        if (key && buf_printf(out, "%s %.*s\n", alias, (int)key_len, key) == 0)
            any = true;
        from += len + (from[len] == '\n');
    }
    return any;
}

static char *decode(const char *base64)
{
    size_t len = strlen(base64);
    char *out = xcalloc(1, len + 1);
    EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
    int got = 0, rest = 0;

    if (!ctx)
        abort();
    EVP_DecodeInit(ctx);
    if (len > CONSOLE_MAX ||
        EVP_DecodeUpdate(ctx, (unsigned char *)out, &got, (const unsigned char *)base64, (int)len) <
            0 ||
        EVP_DecodeFinal(ctx, (unsigned char *)out + got, &rest) < 0)
        got = rest = 0;
    EVP_ENCODE_CTX_free(ctx);
    for (int i = 0; i < got + rest; i++)
        if (out[i] == '\0') /* firmware writes what it likes before the keys come */
            out[i] = '\n';
    out[got + rest] = '\0';
    return out;
}

static int keep_keys(struct ec2 *e, struct ssh_host *h, const struct buf *keys, struct error *err)
{
    snprintf(h->reach.known_hosts, sizeof(h->reach.known_hosts), "%s/known.%u", e->b->set.dir,
             h->number);
    cleanup_close int fd =
        open(h->reach.known_hosts, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r = fd < 0 ? -errno : write_all(fd, keys->data, keys->len);

    return r < 0 ? err_set_errno(err, ERR_TEMPORARY, -r, "%s", h->reach.known_hosts) : 0;
}

/* Only what the instance itself has written to its console at boot is its key. */
static int await_keys(struct ec2 *e, struct ssh_host *h, int64_t deadline, struct error *err)
{
    const struct ec2_place *p = h->lent;
    bool latest = true; /* not every type has it */

    do {
        struct buf form cleanup_buf = BUF_INIT(0), keys cleanup_buf = BUF_INIT(16384);
        struct ec2_outcome outcome;
        struct xml *x = NULL;

        ec2_form(&form, "GetConsoleOutput");
        ec2_param(&form, p->instance, "InstanceId");
        if (latest)
            ec2_param(&form, "true", "Latest");
        int r = ec2_call(e->api, &form, deadline, &x, &outcome, err);
        if (r < 0 && latest && outcome.trouble != EC2_AWAY) {
            latest = false;
            continue;
        }
        if (r < 0)
            return clock_mono_ms() < deadline ? r : late(e, p, "no host key on its console", err);
        cleanup_free char *text = decode(xml_text(x, "output"));
        xml_free(x);
        if (ec2_console_keys(text, h->at.spec->address, &keys))
            return keep_keys(e, h, &keys, err);
    } while (pause_until(e, deadline));
    return late(e, p, "no host key on its console", err);
}

/* EC2 says "pending" until the instance itself has it. */
static bool is_applied(const struct xml *options)
{
    return strcmp(xml_text(options, "state"), "pending") != 0 &&
           strcmp(xml_text(options, "httpEndpoint"), "disabled") == 0;
}

static int await_closed(struct ec2 *e, const struct ec2_place *p, int64_t deadline,
                        struct error *err)
{
    struct buf form cleanup_buf = BUF_INIT(0);

    ec2_form(&form, "DescribeInstances");
    ec2_param(&form, p->instance, "InstanceId.1");
    while (pause_until(e, deadline)) {
        struct xml *x = NULL;
        int r = ec2_call(e->api, &form, deadline, &x, NULL, err);
        if (r < 0)
            return clock_mono_ms() < deadline ? r : late(e, p, "its metadata are not off", err);
        const struct xml *options =
            xml_find(x, "reservationSet/item/instancesSet/item/metadataOptions");
        bool done = !options || is_applied(options); /* it has said yes to the wish already */
        xml_free(x);
        if (done)
            return 0;
    }
    return late(e, p, "its metadata are not off", err);
}

/* By now it has read all that it needs there; a job is to find nothing. */
static int close_metadata(struct ec2 *e, const struct ec2_place *p, int64_t deadline,
                          struct error *err)
{
    struct buf form cleanup_buf = BUF_INIT(0);
    struct xml *x = NULL;

    ec2_form(&form, "ModifyInstanceMetadataOptions");
    ec2_param(&form, p->instance, "InstanceId");
    ec2_param(&form, "disabled", "HttpEndpoint");
    int r = ec2_call(e->api, &form, deadline, &x, NULL, err);
    bool done = r == 0 && is_applied(xml_find(x, "instanceMetadataOptions"));
    xml_free(x);
    return r < 0 || done ? r : await_closed(e, p, deadline, err);
}

int ec2_begin(struct ec2 *e, struct ssh_host *h, struct error *err)
{
    struct ec2_place *p = h->lent;
    int64_t deadline = clock_mono_ms() + e->cfg->ec2_boot_ms;
    size_t ami_len = strcspn(p->want, "+");
    cleanup_free char *ami = xstrndup(p->want, ami_len);

    int r = 0;
    if (!p->instance[0]) /* one that was taken over has it */
        r = launch(e, h, ami, p->want[ami_len] ? p->want + ami_len + 1 : "", deadline, err);
    if (r == 0)
        r = await_running(e, h, deadline, err);
    if (r == 0)
        r = await_keys(e, h, deadline, err);
    if (r == 0)
        r = close_metadata(e, p, deadline, err);
    return r;
}

/* ---- the end ---- */

int ec2_terminate(struct ec2 *e, const char *instance, int64_t made_ms, struct error *err)
{
    struct buf form cleanup_buf = BUF_INIT(0);
    struct ec2_outcome outcome;
    int64_t deadline = clock_mono_ms() + END_MS;
    int r;

    ec2_form(&form, "TerminateInstances");
    ec2_param(&form, instance, "InstanceId.1");
    do {
        struct xml *x = NULL;
        r = ec2_call(e->api, &form, deadline, &x, &outcome, err);
        xml_free(x);
        if (r == 0 || outcome.trouble != EC2_GONE)
            return r;
        if (clock_mono_ms() - made_ms > SEEN_MS)
            return 0;
    } while (!event_wait(-1, clock_mono_ms() + POLL_MS) && clock_mono_ms() < deadline);
    return r;
}

void ec2_end(struct ec2 *e, struct ssh_host *h)
{
    struct ec2_place *p = h->lent;
    struct error err = ERROR_INIT;
    bool owed = p->unsure;

    if (p->instance[0]) {
        pthread_mutex_lock(&e->b->set.lock);
        cleanup_free char *why = xstrdup(h->at.why);
        pthread_mutex_unlock(&e->b->set.lock);
        int r = ec2_terminate(e, p->instance, p->made_ms, &err);
        owed = r < 0;
        log_event(r < 0 ? LOG_WARN_ : LOG_INFO_, r < 0 ? "ec2.lingers" : "ec2.ended", "host",
                  h->at.spec->name, "instance", p->instance, "reason", r < 0 ? err.msg : why, NULL);
    }
    if (owed && p->token[0])
        ec2_owe(e, p->token);
    else if (p->token[0])
        ec2_ledger_drop(e->ledger, p->token);
    pthread_mutex_lock(&e->b->set.lock);
    p->unsure = p->taken = false;
    p->spot[0] = p->token[0] = p->instance[0] = p->want[0] = '\0';
    pthread_mutex_unlock(&e->b->set.lock);
    h->reach = (struct ssh_reach){.address = ""};
}
