#include "client/client.h"

#include "base/mem.h"
#include "client/show.h"

#include <stdio.h>
#include <string.h>

const struct config *client_config(struct client *c, struct error *err)
{
    if (c->cfg == NULL && config_load(c->config_path, &c->cfg, err) < 0)
        c->cfg = NULL;
    return c->cfg;
}

struct rest *client_rest(struct client *c, struct error *err)
{
    cleanup_free char *local = NULL;
    const struct config *cfg = NULL;
    const char *url = c->url, *key = c->key;

    if (c->rest != NULL)
        return c->rest;
    if (url == NULL || key == NULL) {
        cfg = client_config(c, err);
        if (cfg == NULL)
            return NULL;
    }
    if (url == NULL)
        url = local = xasprintf("http://127.0.0.1:%lld", (long long)cfg->port);
    if (key == NULL && cfg->key_ct > 0)
        key = cfg->key_list[0].key;
    c->rest = rest_new(url, key);
    return c->rest;
}

int client_fail(const struct error *err)
{
    fprintf(stderr, "milonga: %s\n", err->msg);
    return 1;
}

int client_show(struct client *c, const char *method, const char *path, const json_t *body,
                void (*show)(const struct client *c, const json_t *answer))
{
    struct error err = ERROR_INIT;
    struct rest *r = client_rest(c, &err);
    json_t *answer = NULL;

    if (r == NULL || rest_json(r, method, path, body, &answer, NULL, &err) < 0)
        return client_fail(&err);
    if (c->json) {
        if (answer != NULL) /* else its exit status says all */
            show_json(answer);
    } else if (show != NULL) {
        show(c, answer);
    }
    json_decref(answer);
    return 0;
}
