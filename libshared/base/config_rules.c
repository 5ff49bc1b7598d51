#include "base/config_private.h"
#include "base/mem.h"
#include "base/name.h"

#include <string.h>
#include <strings.h>

/* The texts' own forms, the keys of frontends, and values that only make sense together. */

/* ---- forms ---- */

/* Each returns NULL, or "is ...; remedy". */
typedef const char *form_fn(const char *text);

static bool only(const char *text, const char *more)
{
    for (const char *p = text; *p; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') &&
            !strchr(more, *p))
            return false;
    return true;
}

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static const char *form_path(const char *text)
{
    return text[0] == '/' ? NULL : "is not an absolute path; begin it with /";
}

static const char *form_path_or_empty(const char *text)
{
    return text[0] ? form_path(text) : NULL;
}

static bool is_port(const char *text, const char *end)
{
    unsigned v = 0;
    const char *p = text;

    for (; p < end && *p >= '0' && *p <= '9' && p - text < 5; p++)
        v = v * 10 + (unsigned)(*p - '0');
    return p == end && v > 0 && v < 65536;
}

/* Past the host at text: a name, an IPv4 address or an IPv6 address in brackets. NULL: none. */
static const char *skip_host(const char *text, const char *end)
{
    static const char v6[] = "0123456789abcdefABCDEF:.";
    const char *p = text;

    if (p < end && *p == '[') {
        p += 1 + strspn(p + 1, v6);
        return p < end && *p == ']' && p > text + 1 ? p + 1 : NULL;
    }
    for (; p < end && *p != ':'; p++)
        if (!only((char[]){*p, '\0'}, ".-_"))
            return NULL;
    return p > text ? p : NULL;
}

/* host or host:port at text, up to `end`. */
static bool is_authority(const char *text, const char *end, bool port_needed)
{
    const char *p = skip_host(text, end);

    if (!p)
        return false;
    if (p == end)
        return !port_needed;
    return *p == ':' && is_port(p + 1, end);
}

static bool all_digits(const char *text)
{
    return text[0] && strspn(text, "0123456789") == strlen(text);
}

/* What is behind the scheme: the Sentinels, then the master's name. */
static bool is_sentinel_url(const char *text)
{
    const char *end = strchrnul(text, '?'), *at = memrchr(text, '@', (size_t)(end - text)), *slash;

    if (at)
        text = at + 1;
    slash = memchr(text, '/', (size_t)(end - text));
    if (!slash || slash + 1 == end || slash[1] == '/')
        return false;
    for (const char *comma; text <= slash; text = comma + 1) {
        comma = memchr(text, ',', (size_t)(slash - text));
        if (!comma)
            comma = slash;
        if (!is_authority(text, comma, false))
            return false;
    }
    slash = memchr(slash + 1, '/', (size_t)(end - slash - 1));
    return !slash || strspn(slash + 1, "0123456789") == (size_t)(end - slash - 1);
}

static const char *form_redis_url(const char *text)
{
    static const char wrong[] =
        "is not a Redis URL; write redis://[user:password@]host:port[/db], unix:///path[?db=N] or "
        "redis+sentinel://[user:password@]host:port,host:port,host:port/NAME[/db]";

    if (starts(text, "unix:///")) {
        const char *query = strchr(text, '?');
        if (query && (!starts(query, "?db=") || !all_digits(query + 4)))
            return wrong;
        return text[8] && query != text + 8 ? NULL : wrong;
    }
    if (starts(text, "redis+sentinel://"))
        return is_sentinel_url(text + strlen("redis+sentinel://")) ? NULL : wrong;
    if (!starts(text, "redis://"))
        return wrong;
    const char *host = text + strlen("redis://"), *at = strrchr(host, '@');
    if (at)
        host = at + 1;
    const char *slash = strchr(host, '/'), *end = slash ? slash : host + strlen(host);
    if (slash && slash[1] && !all_digits(slash + 1))
        return wrong;
    return is_authority(host, end, false) ? NULL : wrong;
}

static const char *form_redis_prefix(const char *text)
{
    const char *open = strchr(text, '{'), *close = strchr(text, '}');

    if (!only(text, "{}_.-:"))
        return "has other characters than letters, digits and _ . - : { }; leave them out";
    if (strlen(text) > 64)
        return "is longer than 64 bytes; shorten it";
    if (!open || !close || close <= open + 1 || strchr(open + 1, '{') || strchr(close + 1, '}'))
        return "does not hold one {hash tag}; write it like {milonga}";
    return NULL;
}

static bool is_http_url(const char *text)
{
    const char *host = strstr(text, "://");

    if (!starts(text, "http://") && !starts(text, "https://"))
        return false;
    host += 3;
    return is_authority(host, host + strcspn(host, "/"), false) && !strpbrk(host, " ?#");
}

static const char *form_store(const char *text)
{
    if (text[0] == '\0' || text[0] == '/' || is_http_url(text))
        return NULL;
    return "is neither an absolute path nor an http(s) URL; give one of them";
}

static const char *form_log_level(const char *text)
{
    enum log_level level;

    return log_level_parse(text, &level) == 0 ? NULL
                                              : "is not a level; give debug, info, warn or error";
}

static const char *form_prefix(const char *text)
{
    for (const char *p = text; *p; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9') &&
            (p == text || !strchr("_.-", *p)))
            return "cannot begin a machine's name; use a-z and 0-9, then also _ . and -";
    if (text[0] == '\0' || strlen(text) > 32)
        return "is empty or longer than 32 bytes; give a short name";
    return NULL;
}

static const char *form_deployment(const char *text)
{
    if (text[0] && name_check_label(text, strlen(text)))
        return "is not a label; use at most 63 of a-z, 0-9, _ . = and -";
    return NULL;
}

static const char *form_listen_host(const char *text)
{
    return text[0] && only(text, ".:-_%[]") ? NULL
                                            : "is not an address; give one such as 0.0.0.0 or ::";
}

static const char *form_vmm_name(const char *text)
{
    return only(text, "_.-") && text[0] != '-' && strlen(text) <= 63
               ? NULL
               : "is not a name; use at most 63 letters, digits, _ . and -";
}

static const char *form_driver(const char *text)
{
    static const char *const drivers[] = {"docker", "docker-hosts", "oci", "ssh", "ec2", "null"};

    for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
        if (strcmp(text, drivers[i]) == 0)
            return NULL;
    return "is not a driver; give docker, docker-hosts, oci, ssh, ec2 or null";
}

static const char *form_docker_url(const char *text)
{
    bool tcp =
        starts(text, "tcp://") && is_authority(text + strlen("tcp://"), text + strlen(text), true);

    if (tcp || is_http_url(text) || (starts(text, "unix:///") && text[8]))
        return NULL;
    return "is not an engine's URL; write unix:///path, tcp://host:port or http(s)://host:port";
}

static const char *form_program(const char *text)
{
    if (text[0] == '\0' || (strchr(text, '/') && text[0] != '/') || strchr(text, ' '))
        return "is not a program; give a name to find in PATH or an absolute path, and no "
               "arguments";
    return NULL;
}

static const char *form_oci_network(const char *text)
{
    return strcmp(text, "none") == 0 || strcmp(text, "slirp") == 0
               ? NULL
               : "is not a network of oci; give none or slirp";
}

static const char *form_cgroup(const char *text)
{
    if (text[0] == '\0' || text[0] == '/' || !only(text, "_.-/@:") || strstr(text, "..") ||
        strstr(text, "//"))
        return "is not a cgroup below ours; write it like milonga or machine.slice/milonga";
    return NULL;
}

/* One item of a comma list at a time, without blanks around it; NULL at the end. */
static const char *next_item(const char **text, size_t *ret_len)
{
    const char *p = *text;

    while (*p == ' ' || *p == '\t' || *p == ',')
        p++;
    if (*p == '\0')
        return NULL;
    size_t len = strcspn(p, ",");
    *text = p + len;
    while (len > 0 && (p[len - 1] == ' ' || p[len - 1] == '\t'))
        len--;
    *ret_len = len;
    return p;
}

static const char *form_labels(const char *text)
{
    size_t len;

    for (const char *item; (item = next_item(&text, &len)) != NULL;)
        if (name_check_label(item, len))
            return "holds something that is not a label; use a-z, 0-9, _ . = and -, and commas "
                   "between labels";
    return NULL;
}

static const char *form_words(const char *text)
{
    return only(text, "_.-,")
               ? NULL
               : "holds something else than letters, digits, _ . and -, with commas between";
}

static const char *form_template(const char *text)
{
    const char *version = strchr(text, ':');

    return only(text, "().-/_:$") && (!version || (version[1] && !strchr(version + 1, ':')))
               ? NULL
               : "is not a launch template; give lt-ID or its name, and if need be :VERSION";
}

static const char *form_images(const char *text)
{
    size_t len;

    for (const char *item; (item = next_item(&text, &len)) != NULL;)
        if (name_check_image(item, len))
            return "holds something that is not an image name; put commas between names";
    return NULL;
}

static const char *form_hosts(const char *text)
{
    size_t len;

    for (const char *item; (item = next_item(&text, &len)) != NULL;)
        if (!is_authority(item, item + len, false))
            return "holds something that is not a host; write hosts without scheme or path, "
                   "commas between them";
    return NULL;
}

static const struct {
    const char *key;
    form_fn *fn;
} forms[] = {
    {"data_dir", form_path},
    {"redis_url", form_redis_url},
    {"redis_prefix", form_redis_prefix},
    {"store", form_store},
    {"log_level", form_log_level},
    {"prefix", form_prefix},
    {"deployment", form_deployment},
    {"listen_host", form_listen_host},
    {"callback_insecure_hosts", form_hosts},
    {"callback_ca_file", form_path_or_empty},
    {"vmm_name", form_vmm_name},
    {"driver", form_driver},
    {"labels", form_labels},
    {"autodriver", form_path_or_empty},
    {"docker_url", form_docker_url},
    {"docker_volume_path", form_path_or_empty},
    {"docker_host_volume_path", form_path_or_empty},
    {"oci_crun", form_program},
    {"oci_network", form_oci_network},
    {"oci_host_image_alias", form_images},
    {"cgroup_parent", form_cgroup},
    {"docker_ca", form_path_or_empty},
    {"docker_cert", form_path_or_empty},
    {"docker_key", form_path_or_empty},
    {"ssh_program", form_program},
    {"ssh_config", form_path_or_empty},
    {"ssh_known_hosts", form_path_or_empty},
    {"ssh_key", form_path_or_empty},
    {"ssh_dir", form_path},
    {"ec2_region", form_words},
    {"ec2_types", form_words},
    {"ec2_template", form_template},
    {"ec2_subnets", form_words},
    {"ec2_security_groups", form_words},
};

static void check_forms(struct config_load *l)
{
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        const struct config_key *key = config_key_get(forms[i].key);
        struct config_origin *origin = config_origin_of(l, key);
        const char *text = *config_text(l->config, key);
        const char *wrong = origin->bad ? NULL : forms[i].fn(text);
        if (wrong) {
            config_problem(l, key, origin, text, "%s", wrong);
            origin->bad = true;
        }
    }
}

/* ---- keys of frontends ---- */

/* Takes "/scope" off a tenant; 0 when none is given, -1 when it is none. */
static int take_scope(const char *tenant, size_t *len)
{
    static const char *const names[] = {"read", "write", "admin"};
    const char *slash = memchr(tenant, '/', *len);
    size_t name_len;

    if (!slash)
        return 0;
    name_len = *len - (size_t)(slash + 1 - tenant);
    *len = (size_t)(slash - tenant);
    for (int i = 0; i < 3; i++)
        if (strlen(names[i]) == name_len && memcmp(names[i], slash + 1, name_len) == 0)
            return SCOPE_READ + i;
    return -1;
}

/* Whoever is alone here operates it, too; with several tenants, an operator is named. */
static void default_scopes(struct config *c)
{
    enum config_scope scope = SCOPE_ADMIN;

    for (size_t i = 1; i < c->key_ct; i++)
        if (strcmp(c->key_list[i].tenant, c->key_list[0].tenant) != 0)
            scope = SCOPE_WRITE;
    for (size_t i = 0; i < c->key_ct; i++)
        if (!c->key_list[i].scope)
            c->key_list[i].scope = scope;
}

static const char *add_key(struct config *c, const char *tenant, size_t tenant_len,
                           const char *text, size_t len)
{
    int scope = take_scope(tenant, &tenant_len);

    if (scope < 0)
        return "names a scope that is none; write tenant/read:key, tenant/write:key or "
               "tenant/admin:key";
    if (name_check_tenant(tenant, tenant_len))
        return "names a tenant that is not of a-z, 0-9 and _ (32 at most); write tenant:key";
    if (len == 0)
        return "holds a tenant without a key; write tenant:key";
    for (size_t i = 0; i < len; i++)
        if (text[i] == '/' || (unsigned char)text[i] < 0x20)
            return "holds a key that cannot be in a URL's path; use letters, digits, - and _";
    for (size_t i = 0; i < c->key_ct; i++)
        if (key_equal(c->key_list[i].key, strlen(c->key_list[i].key), text, len))
            return "holds the same key twice; each key is one tenant's, remove one";
    c->key_list = xrealloc(c->key_list, (c->key_ct + 1) * sizeof(*c->key_list));
    c->key_list[c->key_ct].tenant = xstrndup(tenant, tenant_len);
    c->key_list[c->key_ct].key = xstrndup(text, len);
    c->key_list[c->key_ct].scope = (enum config_scope)scope;
    c->key_ct++;
    return NULL;
}

static void parse_keys(struct config_load *l)
{
    static const char main_tenant[] = "main";
    const struct config_key *key = config_key_get("keys");
    struct config_origin *origin = config_origin_of(l, key);
    const char *p = *config_text(l->config, key), *wrong = NULL, *item;
    size_t len;

    if (origin->bad)
        return;
    if (origin->source == FROM_TANGO) {
        /* one key to Tango, whatever it holds */
        wrong = add_key(l->config, main_tenant, strlen(main_tenant), p, strlen(p));
    } else {
        while (!wrong && (item = next_item(&p, &len)) != NULL) {
            const char *colon = memchr(item, ':', len);
            size_t skip = 0;
            const char *tenant = main_tenant;
            size_t tenant_len = strlen(main_tenant);
            if (colon) {
                tenant = item;
                tenant_len = (size_t)(colon - item);
                skip = tenant_len + 1;
                while (skip < len && item[skip] == ' ')
                    skip++;
            }
            wrong = add_key(l->config, tenant, tenant_len, item + skip, len - skip);
        }
        /* an empty list must not quietly become the key that everybody knows */
        if (!wrong && l->config->key_ct == 0)
            wrong = "is empty; give at least one key";
    }
    default_scopes(l->config);
    if (wrong) {
        config_problem(l, key, origin, NULL, "%s", wrong);
        origin->bad = true;
    }
}

/* ---- values together ---- */

static const struct {
    const char *low;
    const char *high;
    int64_t factor;      /* low * factor <= high */
    bool follow;         /* Tango has no such ceiling: it moves up when nobody set it */
    const char *because; /* NULL: one is the other's ceiling */
} orders[] = {
    {"job_timeout_s", "job_timeout_max_s", 1, true, NULL},
    {"job_cores_milli", "job_cores_max_milli", 1, true, NULL},
    {"job_memory_mb", "job_memory_max_mb", 1, true, NULL},
    {"job_pids", "job_pids_max", 1, true, NULL},
    {"job_fsize_bytes", "job_fsize_max_bytes", 1, true, NULL},
    {"job_disk_bytes", "job_disk_max_bytes", 1, true, NULL},
    {"job_output_bytes", "job_output_max_bytes", 1, true, NULL},
    {"max_body_bytes", "max_body_total_bytes", 1, true, NULL},
    {"retry_base_ms", "retry_cap_ms", 1, false, NULL},
    {"callback_connect_timeout_ms", "callback_timeout_ms", 1, false, NULL},
    {"beat_ms", "lease_ms", 3, false, "or one late beat loses a vmm"},
    {"beat_ms", "leader_lease_ms", 3, false, "or one late beat replaces the dispatcher"},
    {"beat_ms", "pipe_lease_ms", 3, false, "or one late beat kills a job"},
};

static void check_orders(struct config_load *l)
{
    for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
        const struct config_key *low = config_key_get(orders[i].low);
        const struct config_key *high = config_key_get(orders[i].high);
        struct config_origin *from = config_origin_of(l, low), *to = config_origin_of(l, high);
        int64_t v = *config_number(l->config, low), *top = config_number(l->config, high);
        char shown[32];
        if (from->bad || to->bad || v * orders[i].factor <= *top)
            continue;
        if (orders[i].follow && from->source == FROM_TANGO && to->source == FROM_DEFAULT) {
            *top = v;
            continue;
        }
        /* blame what somebody wrote */
        bool blame_low = from->source >= to->source;
        const struct config_key *key = blame_low ? low : high;
        snprintf(shown, sizeof(shown), "%lld", (long long)(blame_low ? v : *top));
        if (orders[i].because)
            config_problem(l, key, blame_low ? from : to, shown,
                           "makes %s less than %lld times %s, %s; raise %s or lower %s", high->name,
                           (long long)orders[i].factor, low->name, orders[i].because, high->name,
                           low->name);
        else
            config_problem(l, key, blame_low ? from : to, shown,
                           "puts %s above %s (%lld); raise %s or lower %s", low->name, high->name,
                           (long long)*top, high->name, low->name);
    }
}

static void check_store(struct config_load *l)
{
    const struct config_key *store = config_key_get("store");
    const struct config_key *secret = config_key_get("store_key");
    struct config *c = l->config;

    if (config_origin_of(l, store)->bad || config_origin_of(l, secret)->bad)
        return;
    if (starts(c->store, "http") && c->store_key[0] == '\0')
        config_problem(l, store, config_origin_of(l, store), c->store,
                       "needs store_key; set it as on the api");
}

static void fill_empty(char **text, char *with)
{
    if ((*text)[0] == '\0')
        config_replace(text, with);
    else
        free(with);
}

static char *host_name(void)
{
    char name[256];

    if (gethostname(name, sizeof(name)) < 0)
        name[0] = '\0';
    name[63] = '\0';
    return xstrdup(name[0] ? name : "vmm");
}

void config_rules_apply(struct config_load *l)
{
    struct config *c = l->config;

    fill_empty(&c->vmm_name, host_name());
    check_forms(l);
    parse_keys(l);
    check_orders(l);
    check_store(l);
    config_hosts_apply(l);
    config_ec2_apply(l);
    fill_empty(&c->store, xasprintf("%s/store", c->data_dir));
    fill_empty(&c->deployment, xstrdup(c->prefix));
    fill_empty(&c->docker_volume_path, xasprintf("%s/docker", c->data_dir));
    fill_empty(&c->docker_host_volume_path, xstrdup(c->docker_volume_path));
}
