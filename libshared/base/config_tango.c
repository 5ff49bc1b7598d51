#include "base/buf.h"
#include "base/config_private.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

/* Tango's names in the environment, so that a compose file written for it starts Milonga too. Some
 * are names that others use for something else; what can only be theirs is passed over, since
 * refusing to start because of a stranger's variable would help nobody. */

enum conversion {
    AS_IS,
    LOWER,
    SECONDS, /* Tango counts whole seconds */
    CORES,   /* decimal cores, as docker's --cpus; ours are thousandths */
    LEVEL,   /* names of Python's logging */
    BACKEND, /* names of Tango's VMMS */
};

/* A later row wins: what Tango itself reads from the environment over the names of its config.py.
 */
static const struct {
    const char *env;
    const char *key;
    enum conversion conversion;
} variables[] = {
    {"RESTFUL_KEY", "keys", AS_IS},
    {"PREFIX", "prefix", LOWER},
    {"DOCKER_DEPLOYMENT", "prefix", LOWER},
    {"PORT", "port", AS_IS},
    {"LOGLEVEL", "log_level", LEVEL},
    {"VMMS_NAME", "driver", BACKEND},
    {"DOCKER_VOLUME_PATH", "docker_volume_path", AS_IS},
    {"DOCKER_TANGO_HOST_VOLUME_PATH", "docker_host_volume_path", AS_IS},
    {"RUNJOB_TIMEOUT", "job_timeout_s", SECONDS},
    {"INITIALIZEVM_TIMEOUT", "init_timeout_ms", SECONDS},
    {"WAITVM_TIMEOUT", "wait_timeout_ms", SECONDS},
    {"COPYIN_TIMEOUT", "copyin_timeout_ms", SECONDS},
    {"COPYOUT_TIMEOUT", "copyout_timeout_ms", SECONDS},
    {"JOB_RETRIES", "job_retries", AS_IS},
    {"POOL_SIZE", "pool_size", AS_IS},
    {"MAX_INPUT_FILE_SIZE", "max_body_bytes", AS_IS},
    {"MAX_OUTPUT_FILE_SIZE", "job_output_bytes", AS_IS},
    {"VM_ULIMIT_FILE_SIZE", "job_fsize_bytes", AS_IS},
    {"VM_ULIMIT_USER_PROC", "job_pids", AS_IS},
    {"DOCKER_CORES_LIMIT", "job_cores_milli", CORES},
    {"DOCKER_MEMORY_LIMIT", "job_memory_mb", AS_IS},
};

/* The variable's value, or NULL when it says nothing to us. */
static const char *tango_value(const char *env)
{
    const char *value = getenv(env);

    /* "None" is how config.py writes that there is no limit */
    if (!value || *value == '\0' || strcmp(value, "None") == 0)
        return NULL;
    /* Kubernetes and Docker links set <SERVICE>_PORT=tcp://address:port for a service "redis" */
    if (strstr(value, "://") && (strcmp(env, "PORT") == 0 || strcmp(env, "REDIS_PORT") == 0))
        return NULL;
    /* where make and many shells install to */
    if (strchr(value, '/') && strcmp(env, "PREFIX") == 0)
        return NULL;
    return value;
}

static char *lower(const char *text)
{
    char *s = xstrdup(text);

    for (char *p = s; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return s;
}

/* "1.5" to "1500"; a fourth decimal is less than we can give and is refused as not a number. */
static char *thousandths(const char *text)
{
    const char *p = text;
    char digits[16] = "";
    size_t len = 0, decimals = 0;

    for (; *p >= '0' && *p <= '9' && len < 8; p++)
        digits[len++] = *p;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9' && decimals < 3; p++, decimals++)
            digits[len++] = *p;
    while (*p == '0' && decimals == 3)
        p++;
    if (*p || len == 0)
        return xstrdup(text);
    for (; decimals < 3; decimals++)
        digits[len++] = '0';
    digits[len] = '\0';
    return xstrdup(digits);
}

static const char *mapped(const char *text, const char *const map[][2], size_t ct)
{
    for (size_t i = 0; i < ct; i++)
        if (strcasecmp(text, map[i][0]) == 0)
            return map[i][1];
    return text;
}

static char *convert(enum conversion conversion, const char *value)
{
    static const char *const levels[][2] = {
        {"warning", "warn"}, {"critical", "error"}, {"fatal", "error"}, {"notset", "debug"}};
    static const char *const backends[][2] = {{"localDocker", "docker"},
                                              {"distDocker", "docker-hosts"}};

    switch (conversion) {
    case LOWER:
        return lower(value);
    case SECONDS:
        return isdigit((unsigned char)value[strlen(value) - 1]) ? xasprintf("%ss", value)
                                                                : xstrdup(value);
    case CORES:
        return thousandths(value);
    case LEVEL:
        return xstrdup(mapped(value, levels, ARRAY_SIZE(levels)));
    case BACKEND:
        return xstrdup(mapped(value, backends, ARRAY_SIZE(backends)));
    case AS_IS:
        break;
    }
    return xstrdup(value);
}

/* Host and port are one URL with us. A port alone moves only a server that nobody has named: a
 * redis_url of the file has its own. */
static void apply_redis(struct config_load *l)
{
    const struct config_key *key = config_key_get("redis_url");
    const char *host = tango_value("DOCKER_REDIS_HOSTNAME");
    const char *port = tango_value("REDIS_PORT");

    if (!host && (!port || config_origin_of(l, key)->source != FROM_DEFAULT))
        return;
    cleanup_free char *name = lower(host ? host : "127.0.0.1");
    bool v6 = strchr(name, ':') != NULL && name[0] != '[';
    cleanup_free char *url =
        xasprintf("redis://%s%s%s:%s", v6 ? "[" : "", name, v6 ? "]" : "", port ? port : "6379");
    config_set(l, key, url, url,
               (struct config_origin){.source = FROM_TANGO,
                                      .tango = host ? "DOCKER_REDIS_HOSTNAME" : "REDIS_PORT"});
}

void config_tango_apply(struct config_load *l)
{
    for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
        const char *value = tango_value(variables[i].env);
        if (!value)
            continue;
        cleanup_free char *text = convert(variables[i].conversion, value);
        config_set(l, config_key_get(variables[i].key), text, value,
                   (struct config_origin){.source = FROM_TANGO, .tango = variables[i].env});
    }
    apply_redis(l);
}
