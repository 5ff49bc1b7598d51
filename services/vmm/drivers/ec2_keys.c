#include "services/vmm/drivers/ec2_api.h"

#include "base/clock.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define FILE_MAX   (1 << 20)
#define ANSWER_MAX 65536
#define IMDS_MS    3000
#define IMDS_URL   "http://169.254.169.254"

void ec2_keys_done(struct ec2_keys *k)
{
    if (k->secret)
        explicit_bzero(k->secret, strlen(k->secret));
    free(k->id);
    free(k->secret);
    free(k->token);
    *k = (struct ec2_keys){0};
}

static const char *env(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

static bool from_environment(struct ec2_keys *ret)
{
    const char *id = env("AWS_ACCESS_KEY_ID"), *secret = env("AWS_SECRET_ACCESS_KEY");

    if (!id[0] || !secret[0])
        return false;
    *ret = (struct ec2_keys){xstrdup(id), xstrdup(secret), xstrdup(env("AWS_SESSION_TOKEN")),
                             CLOCK_NEVER};
    return true;
}

/* ---- the file ---- */

/* Cuts blanks off both ends. */
static char *strip(char *s)
{
    s += strspn(s, " \t\r");
    for (size_t len = strlen(s); len > 0 && strchr(" \t\r", s[len - 1]); len--)
        s[len - 1] = '\0';
    return s;
}

static void take_setting(struct ec2_keys *k, const char *name, const char *value)
{
    char **at = strcasecmp(name, "aws_access_key_id") == 0       ? &k->id
                : strcasecmp(name, "aws_secret_access_key") == 0 ? &k->secret
                : strcasecmp(name, "aws_session_token") == 0     ? &k->token
                                                                 : NULL;
    if (!at)
        return;
    free(*at);
    *at = xstrdup(value);
}

bool ec2_keys_parse_profile(const char *text, const char *profile, struct ec2_keys *ret)
{
    cleanup_free char *copy = xstrdup(text);
    struct ec2_keys k = {.until_ms = CLOCK_NEVER};
    char *save = NULL;
    bool here = false;

    for (char *l = strtok_r(copy, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        char *line = strip(l), *end = strchr(line, ']'), *equals = strchr(line, '=');
        if (*line == '[' && end) {
            *end = '\0';
            here = strcmp(strip(line + 1), profile) == 0;
        } else if (here && equals && *line != '#' && *line != ';') {
            *equals = '\0';
            take_setting(&k, strip(line), strip(equals + 1));
        }
    }
    if (!k.id || !k.secret || !k.id[0] || !k.secret[0]) {
        ec2_keys_done(&k);
        return false;
    }
    if (!k.token)
        k.token = xstrdup("");
    *ret = k;
    return true;
}

static bool from_file(struct ec2_keys *ret)
{
    const char *named = env("AWS_SHARED_CREDENTIALS_FILE"), *profile = env("AWS_PROFILE");
    cleanup_free char *path =
        named[0] ? xstrdup(named) : xasprintf("%s/.aws/credentials", env("HOME"));
    char *text = NULL;
    size_t len;

    if (read_file(path, FILE_MAX, &text, &len) < 0)
        return false;
    bool found = ec2_keys_parse_profile(text, profile[0] ? profile : "default", ret);
    explicit_bzero(text, len);
    free(text);
    return found;
}

/* ---- the instance's role ---- */

static size_t take(char *data, size_t size, size_t ct, void *arg)
{
    return buf_append(arg, data, size * ct) == 0 ? size * ct : 0;
}

/* One question to the metadata service. -ENOENT: it has no such thing. */
static int ask(const char *method, const char *path, const char *header, int64_t deadline,
               struct buf *out)
{
    const char *base = env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    size_t base_len = strlen(base[0] ? base : IMDS_URL);
    int left = clock_until_ms(deadline);
    CURL *c = curl_easy_init();
    long status = 0;

    if (!base[0])
        base = IMDS_URL;
    while (base_len > 0 && base[base_len - 1] == '/')
        base_len--;
    cleanup_free char *url = xasprintf("%.*s%s", (int)base_len, base, path);
    struct curl_slist *headers = curl_slist_append(NULL, header);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)IMDS_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, left >= 0 && left < IMDS_MS ? left + 1L : IMDS_MS);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, out);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    curl_slist_free_all(headers);
    return rc != CURLE_OK ? -EHOSTUNREACH : status == 200 ? 0 : status == 404 ? -ENOENT : -EIO;
}

static int64_t expiry(const char *text, int64_t wall_ms, int64_t mono_ms)
{
    struct tm tm = {0};
    char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    return rest && *rest == 'Z' ? mono_ms + (int64_t)timegm(&tm) * 1000 - wall_ms : mono_ms;
}

int ec2_keys_parse_role(const char *json, size_t len, int64_t wall_ms, int64_t mono_ms,
                        struct ec2_keys *ret, struct error *err)
{
    const char *id = NULL, *secret = NULL, *token = NULL, *expires = NULL;
    json_t *root = json_loadb(json, len, 0, NULL);

    if (!root || json_unpack(root, "{s:s,s:s,s:s,s:s}", "AccessKeyId", &id, "SecretAccessKey",
                             &secret, "Token", &token, "Expiration", &expires) < 0) {
        json_decref(root);
        return err_set(err, ERR_TEMPORARY, EPROTO,
                       "the metadata service's answer about the role's keys is not understood");
    }
    *ret = (struct ec2_keys){xstrdup(id), xstrdup(secret), xstrdup(token),
                             expiry(expires, wall_ms, mono_ms)};
    json_decref(root);
    return 0;
}

static int from_role(int64_t deadline, struct ec2_keys *ret, struct error *err)
{
    struct buf token cleanup_buf = BUF_INIT(1024), role cleanup_buf = BUF_INIT(1024),
                     answer cleanup_buf = BUF_INIT(ANSWER_MAX);

    int r = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 300", deadline,
                &token);
    cleanup_free char *header =
        xasprintf("X-aws-ec2-metadata-token: %s", token.len > 0 ? token.data : "");
    if (r == 0)
        r = ask("GET", "/latest/meta-data/iam/security-credentials/", header, deadline, &role);
    cleanup_free char *path = xasprintf("/latest/meta-data/iam/security-credentials/%.*s",
                                        (int)strcspn(role.len > 0 ? role.data : "", "\r\n"),
                                        role.len > 0 ? role.data : "");
    if (r == 0)
        r = ask("GET", path, header, deadline, &answer);
    if (r < 0)
        return err_set(err, ERR_PERMANENT, EACCES,
                       "no AWS keys: neither AWS_ACCESS_KEY_ID nor the profile in "
                       "~/.aws/credentials has any, and the metadata service %s",
                       r == -ENOENT ? "knows no role of this instance" : "does not answer");
    return ec2_keys_parse_role(answer.data ? answer.data : "", answer.len, clock_wall_ms(),
                               clock_mono_ms(), ret, err);
}

int ec2_keys_find(int64_t deadline, struct ec2_keys *ret, struct error *err)
{
    if (from_environment(ret) || from_file(ret))
        return 0;
    if (strcasecmp(env("AWS_EC2_METADATA_DISABLED"), "true") == 0)
        return err_set(err, ERR_PERMANENT, EACCES,
                       "no AWS keys: neither AWS_ACCESS_KEY_ID nor the profile in "
                       "~/.aws/credentials has any, and AWS_EC2_METADATA_DISABLED is true");
    return from_role(deadline, ret, err);
}

/* ---- errors ---- */

static bool among(const char *code, const char *const *list)
{
    while (*list && strcmp(*list, code) != 0)
        list++;
    return *list != NULL;
}

enum ec2_trouble ec2_trouble_of(const char *code, long status)
{
    static const char *const capacity[] = {"InsufficientInstanceCapacity",
                                           "InsufficientHostCapacity",
                                           "InsufficientCapacity",
                                           "InstanceLimitExceeded",
                                           "VcpuLimitExceeded",
                                           "MaxSpotInstanceCountExceeded",
                                           "SpotMaxPriceTooLow",
                                           "InsufficientFreeAddressesInSubnet",
                                           "Unsupported", /* that type in that zone */
                                           NULL};
    static const char *const away[] = {"RequestLimitExceeded", "Throttling",  "ThrottlingException",
                                       "InternalError",        "Unavailable", "ServiceUnavailable",
                                       "InternalFailure",      NULL};
    size_t len = strlen(code);

    if (strcmp(code, "DryRunOperation") == 0)
        return EC2_DRY_RUN;
    if (among(code, capacity))
        return EC2_CAPACITY;
    if (strncmp(code, "Invalid", 7) == 0 && len > 9 && strcmp(code + len - 9, ".NotFound") == 0)
        return EC2_GONE;
    return among(code, away) || status >= 500 || !code[0] ? EC2_AWAY : EC2_DENIED;
}

/* <Response><Errors><Error><Code>, as EC2 has it; <ErrorResponse><Error><Code>, as gateways may. */
void ec2_error_parts(const struct xml *x, const char **ret_code, const char **ret_message)
{
    const struct xml *e = x ? xml_find(x, "Errors/Error") : NULL;

    if (!e && x)
        e = xml_find(x, "Error");
    *ret_code = e ? xml_text(e, "Code") : "";
    *ret_message = e ? xml_text(e, "Message") : "";
}
