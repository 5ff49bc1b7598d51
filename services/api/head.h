#ifndef MILONGA_API_HEAD_H
#define MILONGA_API_HEAD_H

/* A look at the head of an HTTP/1 request while its body is still on the way. h2o calls a handler
 * only when the whole body is there; this is how keys, sizes and ambiguous framing are judged
 * before. It is no second parser: what it does not understand is h2o's to refuse. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAD_MAX 65536

struct head_text {
    const char *at;
    size_t len;
};

struct head {
    size_t len; /* with the empty line */
    struct head_text method, path;
    struct head_text authorization; /* at NULL when there is none */
    uint64_t content_length;        /* UINT64_MAX when it is no number */
    unsigned content_length_ct;
    bool length_conflict; /* two that differ */
    bool chunked;
    bool expect;
};

/* 1 and *ret: a head; 0: not all of it is there; -1: nothing that looks like one. */
int head_scan(const char *data, size_t len, struct head *ret);

#endif
