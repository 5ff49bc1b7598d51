#ifndef MILONGA_API_RANGE_H
#define MILONGA_API_RANGE_H

/* The header Range (RFC 9110, 14): one range of bytes. */

#include <stddef.h>
#include <stdint.h>

/* Of `total` bytes. 1: *from and *len say which; 0: none is asked for, or nothing that is
 * understood (several ranges, other units), so all is to be sent; -1: it begins behind the end. */
int range_parse(const char *text, size_t len, uint64_t total, uint64_t *from, uint64_t *ret_len);

#endif
