#include "base/config_private.h"

#include <string.h>

/* What driver = ec2 cannot do without; each key by itself is checked as any other. */

static void need(struct config_load *l, const char *name, const char *text, const char *remedy)
{
    const struct config_key *driver = config_key_get("driver");

    if (!config_origin_of(l, config_key_get(name))->bad && !text[0])
        config_problem(l, driver, config_origin_of(l, driver), l->config->driver, "needs %s; %s",
                       name, remedy);
}

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
    if (c->ec2_min > c->ec2_max && !config_origin_of(l, min)->bad)
        config_problem(l, min, config_origin_of(l, min), NULL,
                       "is above ec2_max; raise ec2_max or lower ec2_min");
}
