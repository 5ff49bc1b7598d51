#ifndef MILONGA_CONFIG_PRIVATE_H
#define MILONGA_CONFIG_PRIVATE_H

/* What config.c (table, values, file, environment), config_tango.c (Tango's names), config_rules.c
 * (texts and keys that depend on each other) and config_main.c (options) share; nobody else
 * includes it. A load collects problems instead of stopping at the first, so that --check-config
 * shows them all. */

#include "base/config.h"

#include <stddef.h>

enum config_type {
    CONFIG_GROUP, /* a heading of the manual, not a key */
    CONFIG_STRING,
    CONFIG_LINES,  /* a string that may be given on several lines */
    CONFIG_SECRET, /* a string that is never printed or logged */
    CONFIG_BOOL,
    CONFIG_INT,
    CONFIG_SECONDS,
    CONFIG_MS,
    CONFIG_BYTES,
};

struct config_key {
    const char *name;
    enum config_type type;
    size_t offset;
    const char *def; /* as it would be written in a file */
    int64_t min, max;
    const char *help;
};

/* Weakest first: a later source overrides an earlier one. */
enum config_source { FROM_DEFAULT, FROM_FILE, FROM_TANGO, FROM_ENV };

struct config_origin {
    enum config_source source;
    unsigned line;     /* FROM_FILE */
    const char *tango; /* FROM_TANGO: the variable; static */
    bool bad;          /* its value was refused: no rule builds on it */
};

/* One entry of a key of type CONFIG_LINES. */
struct config_line {
    const struct config_key *key;
    char *text;
    struct config_origin origin;
};

struct config_load {
    const char *path; /* NULL: no file */
    struct config *config;
    struct config_origin *origins; /* one for each row of the table */
    struct config_line *lines;
    size_t line_ct;
    char **problems;
    size_t problem_ct;
    int code; /* errno of the first problem */
};

extern const struct config_key config_keys[];
extern const size_t config_key_ct;

/* NULL when there is none. */
const struct config_key *config_key_find(const char *name, size_t len);
/* The key whose name is most like it, NULL when none is near. */
const struct config_key *config_key_guess(const char *name);
/* A key that is known to be there. */
const struct config_key *config_key_get(const char *name);

struct config_origin *config_origin_of(struct config_load *l, const struct config_key *key);
int64_t *config_number(struct config *c, const struct config_key *key);
char **config_text(struct config *c, const struct config_key *key);
void config_replace(char **text, char *with); /* takes with */

/* MILONGA_ and the key in capitals. */
void config_env_name(const struct config_key *key, char *buf, size_t size);
#define CONFIG_ENV_MAX 64

/* Parses text as the key's value, or notes a problem that shows `shown` and blames `origin`. */
void config_set(struct config_load *l, const struct config_key *key, const char *text,
                const char *shown, struct config_origin origin);

/* Notes a problem: "where: key = value reason", with the value left out of a secret. `reason`
 * begins with a verb and ends with the remedy. */
void config_problem(struct config_load *l, const struct config_key *key,
                    const struct config_origin *origin, const char *shown, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* The hosts of ssh_host and docker_host, from l->lines. */
void config_hosts_apply(struct config_load *l);
void config_hosts_done(struct config *c);
/* What driver = ec2 needs. */
void config_ec2_apply(struct config_load *l);

void config_tango_apply(struct config_load *l);
/* Checks what one value alone cannot show, then replaces "" by what it stands for. */
void config_rules_apply(struct config_load *l);

#endif
