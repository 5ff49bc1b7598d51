#ifndef MILONGA_CLIENT_TABLE_H
#define MILONGA_CLIENT_TABLE_H

/* A table for people: columns as wide as their widest cell, the last one cut at the width of the
 * terminal. Control characters in a cell (names come from users) become "?", so that none moves the
 * cursor. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_COLUMNS 12

struct table;

/* `titles`: words divided by blanks; one that begins with ">" is of a column of numbers, aligned
 * right. */
struct table *table_new(const char *titles);
void table_free(struct table *t);

/* The next cell, row by row; a row is full when each column has its cell. */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints all rows; `none` ("no jobs") alone when there is no row. */
void table_print(const struct table *t, FILE *out, unsigned width, const char *none);

/* Of the terminal on stdout, 0 when it is none: then nothing is cut. */
unsigned terminal_width(void);

/* For people, in static storage of the caller's: "350 ms", "1.5 s", "12 s", "3 min", "5 h", "2 d";
 * "12.3 MB". */
#define HUMAN_MAX 24
const char *human_ms(int64_t ms, char buf[HUMAN_MAX]);
const char *human_bytes(int64_t bytes, char buf[HUMAN_MAX]);

/* How long ago a wall time in milliseconds was; "-" for 0. */
const char *human_ago(int64_t at_ms, char buf[HUMAN_MAX]);

#endif
