/* Any bytes as a request in JSON: refused with a sentence, or decoded; and strings of it written
 * again are JSON that reads the same. */

#include "services/api/json.c"
#include "services/api/out.c"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct pair {
    const char *a;
    double n;
};

struct thing {
    const char *name;
    double number;
    bool flag;
    struct json_list words, pairs;
    struct pair inside;
};

static const struct json_field pair_fields[] = {
    {"a", JF_STRING, JF_REQUIRED | JF_NULL, offsetof(struct pair, a), 64},
    {"n", JF_NUMBER, 0, offsetof(struct pair, n)},
    {NULL},
};
static const struct json_field fields[] = {
    {"s", JF_STRING, JF_NULL, offsetof(struct thing, name), 64},
    {"n", JF_NUMBER, JF_NULL, offsetof(struct thing, number)},
    {"t", JF_TRUE, 0, offsetof(struct thing, flag)},
    {"w", JF_STRINGS, 0, offsetof(struct thing, words), 8},
    {"p", JF_OBJECTS, 0, offsetof(struct thing, pairs), 8, pair_fields, sizeof(struct pair)},
    {"i", JF_OBJECT, JF_NULL, offsetof(struct thing, inside), 0, pair_fields},
    {NULL},
};

static void check_again(const char *s)
{
    struct buf b = BUF_INIT(1 << 20);
    json_t *back;

    out_cstr(&b, s);
    back = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
    if (!back || strcmp(json_string_value(back), s) != 0)
        abort();
    json_decref(back);
    buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thing t = {0};
    struct buf raw = BUF_INIT(1 << 24);
    char why[200] = "";
    json_t *json = json_parse((const char *)data, size, why, sizeof(why)), *back;

    out_str(&raw, (const char *)data, size);
    back = json_loadb(raw.data, raw.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!back) /* whatever the bytes are, what we write is JSON */
        abort();
    json_decref(back);
    buf_free(&raw);
    if (json && json_decode(json, fields, &t, why, sizeof(why)) == 0 && t.name)
        check_again(t.name);
    if (!json && !*why)
        abort();
    free(t.words.items);
    free(t.pairs.items);
    json_decref(json);
    return 0;
}
