#include "assignment.h"

#include "wire/mp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint64_t take_number(struct mp *m)
{
    if (mp_peek(m) != MP_STR)
        return mp_uint(m);
    size_t len;
    const char *s = mp_str(m, &len);
    uint64_t n = 0;
    if (len == 0 || len > 18)
        m->failed = true;
    for (size_t i = 0; i < len && !m->failed; i++) {
        if (s[i] < '0' || s[i] > '9')
            m->failed = true;
        n = n * 10 + (uint64_t)(s[i] - '0');
    }
    return n;
}

int assignment_decode(const void *data, size_t len, struct assignment *ret, struct error *err)
{
    struct mp m;
    struct assignment x = {.tries = 0};
    struct job_token token;
    mp_init(&m, data, len);
    uint32_t ct = mp_array(&m);
    if (m.failed || ct < 5)
        return err_set(err, ERR_PERMANENT, EPROTO, "an assignment has at least 5 elements");
    uint64_t id = take_number(&m);
    size_t token_len;
    const char *token_text = mp_str(&m, &token_len);
    uint64_t tries = take_number(&m), charged = take_number(&m);
    x.body = mp_str(&m, &x.body_len);
    size_t epoch_len = 0;
    const char *epoch = ct > 5 ? mp_str(&m, &epoch_len) : "";
    for (uint32_t i = 6; i < ct; i++)
        mp_skip(&m);
    if (mp_end(&m) < 0 || id == 0 || id > INT32_MAX || tries > UINT32_MAX || charged > UINT32_MAX ||
        epoch_len >= sizeof(x.epoch) || job_token_parse(token_text, token_len, &token) < 0)
        return err_set(err, ERR_PERMANENT, EPROTO, "not an assignment");
    snprintf(x.id, sizeof(x.id), "%llu", (unsigned long long)id);
    job_token_format(token, x.token);
    snprintf(x.epoch, sizeof(x.epoch), "%.*s", (int)epoch_len, epoch);
    x.tries = (unsigned)tries;
    x.charged = (unsigned)charged;
    *ret = x;
    return 0;
}
