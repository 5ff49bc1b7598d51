#include "services/dispatcher/webhook.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SECRET_MAX 128 /* characters of base64 */

static const char prefix[] = "whsec_";

void webhook_body(struct buf *out, const struct job *job, const char *id, const char *verdict,
                  const char *feedback, size_t len, int64_t finished_ms)
{
    time_t seconds = (time_t)(finished_ms / 1000);
    char day[32], when[48];
    struct tm tm;
    json_t *data = json_object(), *body = json_object();
    char *text;

    gmtime_r(&seconds, &tm);
    strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when, sizeof(when), "%s.%03dZ", day, (int)(finished_ms % 1000));
    json_object_set_new(data, "id", json_integer(strtoll(id, NULL, 10)));
    json_object_set_new(data, "lab", json_string(job->lab));
    json_object_set_new(data, "name", json_string(job->name));
    json_object_set_new(data, "output_file", json_string(job->output_file));
    json_object_set_new(data, "state", json_string("finished"));
    json_object_set_new(data, "verdict", json_string(verdict));
    json_object_set_new(data, "feedback", json_stringn(feedback, len));
    json_object_set_new(body, "type", json_string("job.finished"));
    json_object_set_new(body, "timestamp", json_string(when));
    json_object_set_new(body, "data", data);
    text = json_dumps(body, JSON_COMPACT);
    if (!text)
        abort(); /* out of memory, see mem.h */
    buf_appends(out, text);
    free(text);
    json_decref(body);
}

int webhook_sign(const char *secret, const char *message_id, int64_t timestamp_s, const char *body,
                 size_t len, char out[WEBHOOK_SIGNATURE])
{
    unsigned char key[SECRET_MAX], mac[EVP_MAX_MD_SIZE];
    size_t skip = sizeof(prefix) - 1, text = strlen(secret), pad = 0;
    cleanup_buf struct buf signed_text = BUF_INIT(SIZE_MAX);
    unsigned mac_len = 0;
    int key_len;

    if (text <= skip || text - skip > SECRET_MAX || memcmp(secret, prefix, skip) != 0)
        return -EINVAL;
    key_len = EVP_DecodeBlock(key, (const unsigned char *)secret + skip, (int)(text - skip));
    while (pad < 2 && secret[text - 1 - pad] == '=')
        pad++;
    if (key_len <= (int)pad)
        return -EINVAL;
    buf_printf(&signed_text, "%s.%" PRId64 ".", message_id, timestamp_s);
    buf_append(&signed_text, body, len);
    HMAC(EVP_sha256(), key, key_len - (int)pad, (const unsigned char *)signed_text.data,
         signed_text.len, mac, &mac_len);
    OPENSSL_cleanse(key, sizeof(key));
    memcpy(out, "v1,", 3);
    EVP_EncodeBlock((unsigned char *)out + 3, mac, (int)mac_len);
    return 0;
}
