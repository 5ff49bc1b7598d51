#include "services/dispatcher/reply.h"

#include <stdlib.h>

static const redisReply *at(const redisReply *r, size_t i)
{
    if (!r || r->type != REDIS_REPLY_ARRAY || i >= r->elements)
        return NULL;
    return r->element[i];
}

const redisReply *reply_bytes(const redisReply *r, size_t i)
{
    const redisReply *e = at(r, i);

    return e && e->type == REDIS_REPLY_STRING ? e : NULL;
}

const char *reply_str(const redisReply *r, size_t i)
{
    const redisReply *e = reply_bytes(r, i);

    return e ? e->str : "";
}

int64_t reply_num(const redisReply *r, size_t i)
{
    const redisReply *e = at(r, i);

    if (e && e->type == REDIS_REPLY_INTEGER)
        return e->integer;
    return strtoll(reply_str(r, i), NULL, 10);
}

const redisReply *reply_list(const redisReply *r, size_t i)
{
    static const redisReply none = {.type = REDIS_REPLY_ARRAY};
    const redisReply *e = at(r, i);

    return e && e->type == REDIS_REPLY_ARRAY ? e : &none;
}
