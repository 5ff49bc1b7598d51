#ifndef MILONGA_DISPATCHER_REPLY_H
#define MILONGA_DISPATCHER_REPLY_H

/* Reading a reply of Redis without asking at each step whether it is there: what is not, or is of
 * another kind, reads as "", 0 or an empty list. */

#include <hiredis/hiredis.h>
#include <stdint.h>

const char *reply_str(const redisReply *r, size_t i);
int64_t reply_num(const redisReply *r, size_t i);
/* Never NULL. */
const redisReply *reply_list(const redisReply *r, size_t i);
/* The string itself, NULL when it is none; may hold NULs. */
const redisReply *reply_bytes(const redisReply *r, size_t i);

#endif
