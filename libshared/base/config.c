#include "base/config.h"
#include "base/buf.h"
#include "base/config_private.h"
#include "base/mem.h"
#include "base/name.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

/* The table below is the only place that knows a key's name, type, default, range and help. A
 * load goes through it four times, weakest source first: defaults, file, Tango's variables, our
 * variables. Each value passes config_set(), which checks it alone; config_rules_apply() then looks
 * at them together. Defaults are texts that go the same way, so a test can hold milonga.conf
 * against them. */

#define FILE_MAX  (1024 * 1024)
#define SHOWN_MAX 60

#define K      INT64_C(1024)
#define M      (1024 * K)
#define G      (1024 * M)
#define T      (1024 * G)
#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

#define GROUP(title)                                                                               \
    {                                                                                              \
        .name = title, .type = CONFIG_GROUP                                                        \
    }
#define TEXT(f, d, h)                                                                              \
    {                                                                                              \
#f, CONFIG_STRING, offsetof(struct config, f), d, 0, 0, h                                  \
    }
#define LINES(f, d, h)                                                                             \
    {                                                                                              \
#f, CONFIG_LINES, offsetof(struct config, f), d, 0, 0, h                                   \
    }
#define SECRET(f, d, h)                                                                            \
    {                                                                                              \
#f, CONFIG_SECRET, offsetof(struct config, f), d, 0, 0, h                                  \
    }
#define YESNO(f, d, h)                                                                             \
    {                                                                                              \
#f, CONFIG_BOOL, offsetof(struct config, f), d, 0, 1, h                                    \
    }
#define INT(f, d, lo, hi, h)                                                                       \
    {                                                                                              \
#f, CONFIG_INT, offsetof(struct config, f), d, lo, hi, h                                   \
    }
#define SECS(f, d, lo, hi, h)                                                                      \
    {                                                                                              \
#f, CONFIG_SECONDS, offsetof(struct config, f), d, lo, hi, h                               \
    }
#define MSECS(f, d, lo, hi, h)                                                                     \
    {                                                                                              \
#f, CONFIG_MS, offsetof(struct config, f), d, lo, hi, h                                    \
    }
#define BYTES(f, d, lo, hi, h)                                                                     \
    {                                                                                              \
#f, CONFIG_BYTES, offsetof(struct config, f), d, lo, hi, h                                 \
    }

/* clang-format off */
const struct config_key config_keys[] = {
    GROUP("Common"),
    TEXT(data_dir, "/var/lib/milonga", "where this host's state lies"),
    SECRET(redis_url, "redis://127.0.0.1:6379", "redis://[user:password@]host:port[/db], unix:///path[?db=N] or redis+sentinel://host,host,host/NAME[/db]"),
    TEXT(redis_prefix, "{milonga}", "what all our keys in Redis begin with; holds one {hash tag}"),
    MSECS(redis_timeout_ms, "5s", 100, 5 * MINUTE, "a Redis that does not answer for so long is reconnected to"),
    INT(redis_replicas, "0", 0, 15, "replicas of Redis that must have an accepted job before the answer leaves"),
    TEXT(store, "", "directory of the files, or http(s) URL of an api; empty: <data_dir>/store"),
    BYTES(store_cache_bytes, "2G", 16 * M, 64 * T, "local cache of a store behind http"),
    SECRET(store_key, "", "secret between our services for /store; empty: /store is off"),
    TEXT(log_level, "info", "debug, info, warn or error"),
    YESNO(log_json, "no", "log JSON instead of logfmt"),
    TEXT(prefix, "local", "first part of machine names"),
    TEXT(deployment, "", "our label on machines, whose orphans are ours to remove; empty: prefix"),

    GROUP("API"),
    SECRET(keys, "test", "who may call: tenant:key, tenant/scope:key; a bare key is tenant main"),
    TEXT(listen_host, "0.0.0.0", "address to listen on"),
    INT(port, "3000", 1, 65535, "port to listen on"),
    INT(api_threads, "2", 1, 256, "event loops"),
    INT(api_workers, "16", 1, 1024, "threads that hash and write files"),
    BYTES(max_body_bytes, "1G", 1 * K, 1 * T, "largest upload"),
    BYTES(max_body_total_bytes, "2G", 1 * K, 64 * T, "bytes of uploads under way at once"),
    INT(max_connections, "4096", 16, 1000000, "open connections"),
    MSECS(idle_timeout_ms, "60s", 1 * SECOND, 1 * HOUR, "a kept-alive connection without a request is closed"),
    BYTES(slow_body_bytes_s, "1k", 0, 1 * G, "an upload slower than so many bytes a second is cut; 0: never"),
    INT(max_live_jobs, "200000", 1, 100000000, "unfinished jobs; more are refused"),
    BYTES(max_live_bytes, "256M", 1 * M, 64 * T, "descriptions of unfinished jobs; more are refused"),
    MSECS(dup_window_ms, "60s", 0, 1 * DAY, "the same addJob with the same callback URL within so long is the same job; 0: off"),
    INT(list_max, "1000", 1, 100000, "jobs in one answer of /jobs"),
    MSECS(wish_wait_ms, "25s", 0, 25 * SECOND, "longest wait of prealloc and build before they answer"),

    GROUP("Limits of a job: default, and the most a job may ask for"),
    SECS(job_timeout_s, "60", 1, 30 * DAY / SECOND, "time to run"),
    SECS(job_timeout_max_s, "1h", 1, 30 * DAY / SECOND, "time to run, at most"),
    INT(job_cores_milli, "0", 0, 1024000, "thousandths of a core; 0: no limit"),
    INT(job_cores_max_milli, "8000", 1, 1024000, "thousandths of a core, at most"),
    INT(job_memory_mb, "1024", 4, 16777216, "memory in MB"),
    INT(job_memory_max_mb, "8192", 4, 16777216, "memory in MB, at most"),
    INT(job_pids, "100", 1, 4194304, "processes and threads"),
    INT(job_pids_max, "1000", 1, 4194304, "processes and threads, at most"),
    BYTES(job_fsize_bytes, "100M", 1 * K, 64 * T, "size of a file that the job writes"),
    BYTES(job_fsize_max_bytes, "1G", 1 * K, 64 * T, "size of a file that the job writes, at most"),
    BYTES(job_disk_bytes, "1G", 1 * M, 64 * T, "all that the job writes to disk"),
    BYTES(job_disk_max_bytes, "4G", 1 * M, 64 * T, "all that the job writes to disk, at most"),
    BYTES(job_output_bytes, "1024000", 1 * K, 1 * G, "output that is kept"),
    BYTES(job_output_max_bytes, "16M", 1 * K, 1 * G, "output that is kept, at most"),
    BYTES(watch_bytes, "1024000", 0, 64 * M, "first bytes of output that can be watched while it runs"),

    GROUP("Dispatcher"),
    MSECS(lease_ms, "3s", 500, 10 * MINUTE, "a vmm silent for so long is lost"),
    MSECS(leader_lease_ms, "2s", 500, 10 * MINUTE, "a dispatcher silent for so long is replaced by its standby"),
    MSECS(beat_ms, "500ms", 50, 1 * MINUTE, "how often vmm and dispatcher say that they live"),
    INT(job_retries, "2", 0, 20, "further tries after an infrastructure failure"),
    MSECS(retry_base_ms, "500ms", 1, 1 * HOUR, "wait before the first retry; doubles each time"),
    MSECS(retry_cap_ms, "30s", 1, 1 * DAY, "longest wait before a retry"),
    SECS(queue_max_age_s, "1d", 1, 365 * DAY / SECOND, "a job queued for so long is given up"),
    INT(pool_size, "2", 0, 10000, "warm machines of an image that is in use"),
    SECS(pool_idle_s, "10m", 1, 365 * DAY / SECOND, "an image not asked for so long is no longer kept warm"),
    MSECS(callback_delay_ms, "1500ms", 0, 1 * MINUTE, "earliest callback after the answer to addJob"),
    MSECS(callback_timeout_ms, "30s", 100, 10 * MINUTE, "a callback that takes longer is tried again"),
    MSECS(callback_connect_timeout_ms, "10s", 100, 10 * MINUTE, "of that, time to connect"),
    INT(callback_parallel, "16", 1, 1024, "callbacks under way at once"),
    INT(callback_max_tries, "40", 1, 10000, "a callback that failed so often is given up"),
    MSECS(callback_retry_cap_ms, "10m", 1 * SECOND, 1 * DAY, "longest wait before a callback is tried again"),
    TEXT(callback_insecure_hosts, "", "hosts whose TLS certificate is not verified, by commas"),
    TEXT(callback_ca_file, "", "certificates to trust; empty: the system's"),
    INT(dead_max_jobs, "100000", 0, 100000000, "finished jobs that are remembered"),
    SECS(dead_max_age_s, "30d", 60, 3650 * DAY / SECOND, "how long finished jobs are remembered"),
    BYTES(dead_max_bytes, "1G", 1 * M, 64 * T, "descriptions of finished jobs that are remembered"),
    INT(rejected_max_jobs, "10000", 1, 100000000, "rejected jobs that are remembered"),
    INT(tenant_images_max, "100", 0, 100000, "images that a tenant may have of its own"),
    INT(labs_max, "100000", 1, 10000000, "courselabs; the one unused longest makes room for a new one"),
    SECS(lab_max_age_s, "365d", 3600, 3650 * DAY / SECOND, "a courselab unused for so long is removed"),
    INT(outbox_max, "100000", 1, 10000000, "callbacks that wait; older ones are given up"),
    SECS(outbox_max_age_s, "1d", 60, 365 * DAY / SECOND, "a callback that waited for so long is given up"),
    SECS(collect_interval_s, "20m", 1, 1 * DAY / SECOND, "how often files that nobody names are looked for"),
    SECS(collect_grace_s, "1h", 1, 365 * DAY / SECOND, "how long a file that nobody names is kept"),
    SECS(collect_quiet_s, "1d", 0, 365 * DAY / SECOND, "no file is removed for so long after Redis lost its past"),

    GROUP("Virtual machine manager"),
    TEXT(vmm_name, "", "this vmm's name, unlike any other's; empty: the host's name"),
    TEXT(driver, "docker", "what makes machines: docker, docker-hosts, oci, ssh, ec2 or null"),
    INT(slots, "0", 0, 100000, "attempts that run at once; 0: as many as cores"),
    YESNO(stop_hands_back, "no", "at SIGTERM give back what runs, to run elsewhere, and do not finish it"),
    TEXT(labels, "", "what jobs may ask for and this vmm has, by commas"),
    INT(warm_max, "16", 0, 100000, "warm machines of all images on this vmm"),
    MSECS(init_timeout_ms, "180s", 1 * SECOND, 1 * HOUR, "time to make a machine"),
    MSECS(wait_timeout_ms, "60s", 1 * SECOND, 1 * HOUR, "time until a machine answers"),
    MSECS(copyin_timeout_ms, "30s", 1 * SECOND, 1 * HOUR, "time to copy the files in"),
    MSECS(copyout_timeout_ms, "30s", 1 * SECOND, 1 * HOUR, "time to copy the output out"),
    MSECS(destroy_timeout_ms, "10s", 1 * SECOND, 1 * HOUR, "time to destroy a machine before it is tried anew"),
    MSECS(reap_interval_ms, "10s", 1 * SECOND, 1 * HOUR, "how often orphans are looked for"),
    MSECS(pipe_lease_ms, "10s", 1 * SECOND, 10 * MINUTE, "an autodriver without a heartbeat for so long kills its job"),
    TEXT(autodriver, "", "the program that goes into machines; empty: as installed"),
    TEXT(docker_url, "unix:///var/run/docker.sock", "the container engine"),
    TEXT(docker_volume_path, "", "where files for bind mounts lie; empty: <data_dir>/docker"),
    TEXT(docker_host_volume_path, "", "the same as the engine sees it; empty: the same"),
    LINES(docker_host, "", "an engine: NAME tcp://ADDRESS[:PORT], ssh://[USER@]ADDRESS[:PORT][/SOCKET] or unix:///SOCKET [slots= labels= ca= cert= key=]"),
    TEXT(docker_ca, "", "certificates that sign those of engines behind tcp://"),
    TEXT(docker_cert, "", "our own certificate for engines behind tcp://"),
    TEXT(docker_key, "", "its private key"),
    TEXT(oci_crun, "crun", "the OCI runtime"),
    TEXT(oci_network, "none", "what a job with network has: none (loopback only) or slirp"),
    YESNO(oci_host_image, "no", "offer this host's own files as the image host"),
    TEXT(oci_host_image_alias, "", "further names of that image, by commas"),
    TEXT(cgroup_parent, "milonga", "cgroup that holds the machines"),
    LINES(ssh_host, "", "a host: NAME [USER@]ADDRESS[:PORT] [slots= labels= exclusive= mode= images= key= dir=]"),
    TEXT(ssh_program, "ssh", "OpenSSH's client"),
    TEXT(ssh_config, "", "its configuration file; empty: the account's own"),
    TEXT(ssh_known_hosts, "", "its file of host keys; empty: as ssh has it"),
    TEXT(ssh_key, "", "private key to log in with; empty: as ssh has it"),
    TEXT(ssh_dir, "/var/lib/milonga-host", "our directory on each host"),
    MSECS(ssh_dead_ms, "8s", 2 * SECOND, 10 * SECOND, "a host of ssh_host or docker_host that does not answer for so long is lost"),
    TEXT(ec2_region, "", "AWS region; empty: that of AWS_REGION"),
    TEXT(ec2_template, "", "launch template, by id or name, and :VERSION; empty: none"),
    TEXT(ec2_types, "", "instance types by commas, the first that can be had; jobs may ask for NAME+TYPE"),
    TEXT(ec2_subnets, "", "subnets by commas, the first with room; empty: EC2's default"),
    TEXT(ec2_security_groups, "", "ids of security groups, by commas; empty: the default one"),
    TEXT(ec2_key_name, "", "key pair whose private half is ssh_key; empty: images have the key"),
    TEXT(ec2_instance_profile, "", "instance profile of the instances; empty: none"),
    TEXT(ec2_user, "admin", "account to log in with"),
    YESNO(ec2_public, "no", "log in by the public address"),
    YESNO(ec2_spot, "no", "spot instances; on demand where there are none"),
    INT(ec2_slots, "1", 1, 64, "machines at once on an instance"),
    INT(ec2_min, "0", 0, 1000, "instances that are there whatever waits, of the image last used"),
    INT(ec2_warm, "0", 0, 64000, "free places for machines, of the image last used, that are kept ahead of jobs"),
    TEXT(ec2_warm_image, "", "the image that counts as last used before any is"),
    INT(ec2_max, "4", 1, 1000, "instances at once"),
    SECS(ec2_idle_s, "10m", 1, 30 * DAY / SECOND, "an instance without a machine for so long ends"),
    SECS(ec2_max_age_s, "1d", 1, 365 * DAY / SECOND, "an instance of that age gets no more jobs"),
    TEXT(ec2_prices, "", "what types cost an hour, by commas: TYPE=PRICE, TYPE/spot=PRICE"),
    TEXT(ec2_cost_max, "", "most that all instances of the deployment cost an hour; empty: no ceiling"),
    MSECS(ec2_boot_ms, "160s", 1 * SECOND, 1 * HOUR, "time from asking for an instance to its host key"),
    MSECS(ec2_reap_ms, "60s", 1 * SECOND, 1 * HOUR, "how often instances that nobody claims are looked for"),
    MSECS(ec2_claim_ms, "60s", 1 * SECOND, 1 * HOUR, "instances of a vmm silent for so long are ended by another"),
    YESNO(ec2_reap_dry, "no", "name them in the log and leave them alone"),
};
/* clang-format on */
const size_t config_key_ct = ARRAY_SIZE(config_keys);

const struct config_key *config_key_find(const char *name, size_t len)
{
    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->type != CONFIG_GROUP && strlen(key->name) == len &&
            memcmp(key->name, name, len) == 0)
            return key;
    }
    return NULL;
}

const struct config_key *config_key_get(const char *name)
{
    const struct config_key *key = config_key_find(name, strlen(name));

    if (!key) {
        fprintf(stderr, "config: no key %s in the table\n", name);
        abort();
    }
    return key;
}

/* Levenshtein's distance, in one row. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], len = strlen(b);

    if (len >= ARRAY_SIZE(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= len; j++)
        row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= len; j++) {
            size_t best = diagonal + (*a != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[len];
}

const struct config_key *config_key_guess(const char *name)
{
    const struct config_key *best = NULL;
    size_t least = strlen(name) / 3 + 1;

    if (strlen(name) > 64)
        return NULL;
    for (size_t i = 0; i < config_key_ct; i++) {
        if (config_keys[i].type == CONFIG_GROUP)
            continue;
        size_t d = distance(name, config_keys[i].name);
        /* the unit is what people forget */
        size_t len = strlen(name);
        if (len > 3 && strncmp(config_keys[i].name, name, len) == 0 &&
            config_keys[i].name[len] == '_')
            d = 1;
        if (d <= least && (!best || d < least)) {
            least = d;
            best = &config_keys[i];
        }
    }
    return best;
}

struct config_origin *config_origin_of(struct config_load *l, const struct config_key *key)
{
    return &l->origins[key - config_keys];
}

int64_t *config_number(struct config *c, const struct config_key *key)
{
    return (int64_t *)(void *)((char *)c + key->offset);
}

char **config_text(struct config *c, const struct config_key *key)
{
    return (char **)(void *)((char *)c + key->offset);
}

void config_replace(char **text, char *with)
{
    free(*text);
    *text = with;
}

void config_env_name(const struct config_key *key, char *buf, size_t size)
{
    snprintf(buf, size, "MILONGA_%s", key->name);
    for (char *p = buf; *p; p++)
        *p = (char)toupper((unsigned char)*p);
}

/* ---- problems ---- */

static void add_problem(struct config_load *l, int code, char *text)
{
    l->problems = xrealloc(l->problems, (l->problem_ct + 1) * sizeof(char *));
    l->problems[l->problem_ct++] = text;
    if (l->code == 0)
        l->code = code;
}

/* A value as it may be shown on a terminal. */
static void show(const char *value, char *buf, size_t size)
{
    size_t len = strlen(value);
    bool cut = len > SHOWN_MAX;
    size_t n = cut ? SHOWN_MAX : len;

    if (n >= size)
        n = size - 1;
    for (size_t i = 0; i < n; i++)
        buf[i] = (unsigned char)value[i] < 0x20 || (unsigned char)value[i] > 0x7e ? '?' : value[i];
    snprintf(buf + n, size - n, "%s", cut ? "..." : "");
}

void config_problem(struct config_load *l, const struct config_key *key,
                    const struct config_origin *origin, const char *shown, const char *fmt, ...)
{
    char value[SHOWN_MAX + 8], env[CONFIG_ENV_MAX], reason[400];
    cleanup_free char *where = NULL;
    va_list ap;

    switch (origin->source) {
    case FROM_FILE:
        where = xasprintf("%s:%u", l->path, origin->line);
        break;
    case FROM_TANGO:
        where = xasprintf("environment %s", origin->tango);
        break;
    case FROM_ENV:
        config_env_name(key, env, sizeof(env));
        where = xasprintf("environment %s", env);
        break;
    case FROM_DEFAULT:
        where = xasprintf("default");
        break;
    }
    va_start(ap, fmt);
    vsnprintf(reason, sizeof(reason), fmt, ap);
    va_end(ap);
    if (key->type == CONFIG_SECRET || !shown) {
        add_problem(l, EINVAL, xasprintf("%s: %s %s", where, key->name, reason));
    } else {
        show(*shown ? shown : "(nothing)", value, sizeof(value));
        add_problem(l, EINVAL, xasprintf("%s: %s = %s %s", where, key->name, value, reason));
    }
}

static void file_problem(struct config_load *l, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void file_problem(struct config_load *l, unsigned line, const char *fmt, ...)
{
    char reason[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof(reason), fmt, ap);
    va_end(ap);
    add_problem(l, EINVAL, xasprintf("%s:%u: %s", l->path, line, reason));
}

/* ---- values ---- */

struct suffix {
    const char *text;
    int64_t factor;
};

static const struct suffix ms_suffixes[] = {{"d", DAY},    {"h", HOUR}, {"m", MINUTE},
                                            {"s", SECOND}, {"ms", 1},   {"", 1}};
static const struct suffix byte_suffixes[] = {{"T", T}, {"G", G}, {"M", M}, {"k", K}, {"", 1}};

/* Digits, at most one space, a suffix. Not strtoll: that one takes signs, blanks and what
 * overflows. */
static int parse_number(const char *text, const struct suffix *suffixes, size_t ct, bool any_case,
                        int64_t *ret)
{
    int64_t v = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p - '0', &v))
            return -EINVAL;
    if (p == text)
        return -EINVAL;
    if (*p == ' ' && p[1])
        p++;
    for (size_t i = 0; i < ct; i++) {
        int differ = any_case ? strcasecmp(p, suffixes[i].text) : strcmp(p, suffixes[i].text);
        if (differ)
            continue;
        if (__builtin_mul_overflow(v, suffixes[i].factor, &v))
            return -EINVAL;
        *ret = v;
        return 0;
    }
    return -EINVAL;
}

int config_parse_ms(const char *text, int64_t *ret)
{
    return parse_number(text, ms_suffixes, ARRAY_SIZE(ms_suffixes), false, ret);
}

int config_parse_bytes(const char *text, int64_t *ret)
{
    return parse_number(text, byte_suffixes, ARRAY_SIZE(byte_suffixes), true, ret);
}

static int parse_seconds(const char *text, int64_t *ret)
{
    int64_t v;

    if (parse_number(text, &(struct suffix){"", 1}, 1, false, ret) == 0)
        return 0;
    if (config_parse_ms(text, &v) < 0 || v % SECOND)
        return -EINVAL;
    *ret = v / SECOND;
    return 0;
}

static int parse_bool(const char *text, bool *ret)
{
    static const char *const words[][2] = {
        {"no", "yes"}, {"false", "true"}, {"off", "on"}, {"0", "1"}};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        for (int v = 0; v < 2; v++)
            if (strcasecmp(text, words[i][v]) == 0) {
                *ret = v != 0;
                return 0;
            }
    return -EINVAL;
}

/* The largest unit that divides it. */
static void format_number(enum config_type type, int64_t v, char *buf, size_t size)
{
    const struct suffix *s = byte_suffixes;
    size_t ct = ARRAY_SIZE(byte_suffixes);

    if (type == CONFIG_SECONDS)
        v *= SECOND;
    if (type == CONFIG_SECONDS || type == CONFIG_MS) {
        s = ms_suffixes;
        ct = ARRAY_SIZE(ms_suffixes);
    } else if (type != CONFIG_BYTES) {
        s = &byte_suffixes[ct - 1];
        ct = 1;
    }
    while (ct > 1 && (v == 0 || v % s->factor)) {
        s++;
        ct--;
    }
    snprintf(buf, size, "%lld%s", (long long)(v / s->factor), s->text);
}

static void set_number(struct config_load *l, const struct config_key *key, const char *text,
                       const char *shown, struct config_origin *origin)
{
    char low[32], high[32];
    int64_t v = 0;
    const char *what = "a whole number";
    int r;

    format_number(key->type, key->min, low, sizeof(low));
    format_number(key->type, key->max, high, sizeof(high));
    if (key->type == CONFIG_MS) {
        what = "a duration in ms, s, m, h or d";
        r = config_parse_ms(text, &v);
    } else if (key->type == CONFIG_SECONDS) {
        what = "a duration in whole s, m, h or d";
        r = parse_seconds(text, &v);
    } else if (key->type == CONFIG_BYTES) {
        what = "a size in bytes, k, M, G or T";
        r = config_parse_bytes(text, &v);
    } else {
        r = parse_number(text, &(struct suffix){"", 1}, 1, false, &v);
    }
    origin->bad = true;
    if (r < 0)
        config_problem(l, key, origin, shown, "is not %s; give %s to %s", what, low, high);
    else if (v < key->min || v > key->max)
        config_problem(l, key, origin, shown, "is out of range; give %s to %s", low, high);
    else
        origin->bad = false;
    if (!origin->bad)
        *config_number(l->config, key) = v;
}

static void set_text(struct config_load *l, const struct config_key *key, const char *text,
                     const char *shown, struct config_origin *origin)
{
    size_t len = strlen(text);

    origin->bad = true;
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            config_problem(l, key, origin, shown, "contains a control character; remove it");
            return;
        }
    if (!utf8_valid(text, len)) {
        config_problem(l, key, origin, shown, "is not valid UTF-8; save the text as UTF-8");
        return;
    }
    if (len >= 2 && (text[0] == '"' || text[0] == '\'') && text[len - 1] == text[0]) {
        config_problem(l, key, origin, shown,
                       "is in quotes, which would be part of it; remove them");
        return;
    }
    origin->bad = false;
    config_replace(config_text(l->config, key), xstrdup(text));
}

static void drop_lines(struct config_load *l, const struct config_key *key)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->line_ct; i++)
        if (l->lines[i].key == key)
            free(l->lines[i].text);
        else
            l->lines[kept++] = l->lines[i];
    l->line_ct = kept;
}

/* Entries with ';' between them, and each further line of the file adds to them. A stronger source
 * begins anew. */
static void set_lines(struct config_load *l, const struct config_key *key, const char *text,
                      const char *shown, struct config_origin *origin)
{
    cleanup_free char *before = xstrdup(*config_text(l->config, key) ?: "");
    bool again = config_origin_of(l, key)->source == origin->source;

    set_text(l, key, text, shown, origin);
    if (origin->bad)
        return;
    if (!again)
        drop_lines(l, key);
    if (again && before[0])
        config_replace(config_text(l->config, key), xasprintf("%s; %s", before, text));
    cleanup_free char *copy = xstrdup(text);
    char *save = NULL;
    for (char *e = strtok_r(copy, ";", &save); e; e = strtok_r(NULL, ";", &save)) {
        if (e[strspn(e, " \t")] == '\0')
            continue;
        l->lines = xrealloc(l->lines, (l->line_ct + 1) * sizeof(*l->lines));
        l->lines[l->line_ct++] = (struct config_line){key, xstrdup(e + strspn(e, " \t")), *origin};
    }
}

void config_set(struct config_load *l, const struct config_key *key, const char *text,
                const char *shown, struct config_origin origin)
{
    switch (key->type) {
    case CONFIG_STRING:
    case CONFIG_SECRET:
        set_text(l, key, text, shown, &origin);
        break;
    case CONFIG_LINES:
        set_lines(l, key, text, shown, &origin);
        break;
    case CONFIG_BOOL:
        origin.bad = parse_bool(text, (bool *)(void *)((char *)l->config + key->offset)) < 0;
        if (origin.bad)
            config_problem(l, key, &origin, shown, "is neither yes nor no; give one of them");
        break;
    default:
        set_number(l, key, text, shown, &origin);
    }
    *config_origin_of(l, key) = origin;
}

/* ---- sources ---- */

static char *trim(char *s)
{
    while (*s == ' ' || *s == '\t')
        s++;
    size_t len = strlen(s);
    while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t' || s[len - 1] == '\r'))
        s[--len] = '\0';
    return s;
}

static void read_line(struct config_load *l, char *text, unsigned line)
{
    text = trim(text);
    if (*text == '\0' || *text == '#')
        return;
    char *equals = strchr(text, '=');
    if (!equals) {
        file_problem(l, line, "has no \"=\"; write key = value, or # before a comment");
        return;
    }
    *equals = '\0';
    char *name = trim(text), *value = equals + 1;
    /* a comment needs a blank before it, since a key or a URL may hold '#' */
    for (char *p = value; *p; p++)
        if (*p == '#' && (p == value || p[-1] == ' ' || p[-1] == '\t')) {
            *p = '\0';
            break;
        }
    value = trim(value);

    const struct config_key *key = config_key_find(name, strlen(name));
    if (!key) {
        char shown[SHOWN_MAX + 8];
        const struct config_key *guess = config_key_guess(name);
        show(name, shown, sizeof(shown));
        if (guess)
            file_problem(l, line, "%s is not a key; did you mean %s?", shown, guess->name);
        else
            file_problem(l, line, "%s is not a key; --help lists the keys", shown);
        return;
    }
    struct config_origin *before = config_origin_of(l, key);
    if (before->source == FROM_FILE && key->type != CONFIG_LINES) {
        file_problem(l, line, "%s is set twice, first on line %u; remove one", name, before->line);
        return;
    }
    config_set(l, key, value, value, (struct config_origin){.source = FROM_FILE, .line = line});
}

static void read_path(struct config_load *l)
{
    cleanup_free char *text = NULL;
    size_t len;
    int r = read_file(l->path, FILE_MAX, &text, &len);

    if (r < 0) {
        add_problem(l, -r,
                    xasprintf("%s: cannot be read: %s; name a readable file of at most 1 MB",
                              l->path, strerror(-r)));
        return;
    }
    char *p = text, *end = text + len;
    unsigned line = 1;
    if (len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    for (; p < end; line++) {
        char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop)
            stop = end;
        *stop = '\0';
        if (strlen(p) != (size_t)(stop - p))
            file_problem(l, line, "contains a NUL byte; remove it");
        else
            read_line(l, p, line);
        p = stop + 1;
    }
}

static void read_environment(struct config_load *l)
{
    char env[CONFIG_ENV_MAX];

    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->type == CONFIG_GROUP)
            continue;
        config_env_name(key, env, sizeof(env));
        const char *value = getenv(env);
        if (value)
            config_set(l, key, value, value, (struct config_origin){.source = FROM_ENV});
    }
}

static void load(struct config_load *l)
{
    l->config = xcalloc(1, sizeof(*l->config));
    l->origins = xcalloc(config_key_ct, sizeof(*l->origins));
    for (size_t i = 0; i < config_key_ct; i++)
        if (config_keys[i].type != CONFIG_GROUP)
            config_set(l, &config_keys[i], config_keys[i].def, config_keys[i].def,
                       (struct config_origin){.source = FROM_DEFAULT});
    if (l->path)
        read_path(l);
    config_tango_apply(l);
    read_environment(l);
    config_rules_apply(l);
}

static void load_done(struct config_load *l)
{
    for (size_t i = 0; i < l->problem_ct; i++)
        free(l->problems[i]);
    free(l->problems);
    for (size_t i = 0; i < l->line_ct; i++)
        free(l->lines[i].text);
    free(l->lines);
    free(l->origins);
    config_free(l->config);
}

int config_load(const char *path, struct config **ret, struct error *err)
{
    struct config_load l = {.path = path};
    int r = 0;

    load(&l);
    if (l.problem_ct == 1)
        r = err_set(err, ERR_REFUSED, l.code, "%s", l.problems[0]);
    else if (l.problem_ct > 1)
        r = err_set(err, ERR_REFUSED, l.code, "%.380s (and %zu more; --check-config lists them)",
                    l.problems[0], l.problem_ct - 1);
    else
        *ret = TAKE_PTR(l.config);
    load_done(&l);
    return r;
}

int config_check(const char *path, FILE *out)
{
    struct config_load l = {.path = path};

    load(&l);
    int ct = (int)l.problem_ct;
    for (size_t i = 0; i < l.problem_ct; i++)
        fprintf(out, "%s\n", l.problems[i]);
    load_done(&l);
    return ct;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < config_key_ct; i++)
        if (config_keys[i].type == CONFIG_STRING || config_keys[i].type == CONFIG_SECRET ||
            config_keys[i].type == CONFIG_LINES)
            free(*config_text(c, &config_keys[i]));
    for (size_t i = 0; i < c->key_ct; i++) {
        free(c->key_list[i].tenant);
        free(c->key_list[i].key);
    }
    free(c->key_list);
    config_hosts_done(c);
    free(c);
}

void config_help(FILE *out)
{
    char low[32], high[32], env[CONFIG_ENV_MAX];

    for (size_t i = 0; i < config_key_ct; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->type == CONFIG_GROUP) {
            fprintf(out, "%s%s\n", i ? "\n" : "", key->name);
            continue;
        }
        config_env_name(key, env, sizeof(env));
        fprintf(out, "  %s = %s\n      %s", key->name, key->def, key->help);
        if (key->type >= CONFIG_INT) {
            format_number(key->type, key->min, low, sizeof(low));
            format_number(key->type, key->max, high, sizeof(high));
            fprintf(out, " (%s to %s)", low, high);
        }
        fprintf(out, " [%s]\n", env);
    }
}
