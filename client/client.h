#ifndef MILONGA_CLIENT_H
#define MILONGA_CLIENT_H

/* milonga, the command-line client: a table of commands (main.c), each in the file of its subject,
 * over the native API (rest.h; docs/openapi.yaml). Exit status: 0 done, 1 not done (a sentence on
 * stderr), 2 wrong use, or the job's (submit --follow, logs -f; see job_exit_status()). */

#include "base/config.h"
#include "client/rest.h"

#include <stdbool.h>

#define EXIT_USE 2

struct client {
    const char *config_path; /* or NULL */
    const char *url;         /* of an api, without a slash at the end */
    const char *key;         /* or NULL: taken from the configuration */
    bool json;               /* machine-readable output: asked for, or stdout is no terminal */
    bool color;
    struct config *cfg; /* client_config() loads it */
    struct rest *rest;  /* client_rest() makes it */
};

/* The configuration, loaded once. NULL with *err set when it is bad. Borrowed. */
const struct config *client_config(struct client *c, struct error *err);

/* The connection; url and key are those of the command line, the environment (MILONGA_URL,
 * MILONGA_KEY) or, on the server itself, the configuration. NULL with *err set. Borrowed. */
struct rest *client_rest(struct client *c, struct error *err);

/* ---- arguments: options of a command, in any order among its operands ---- */

struct arg {
    const char *name;   /* "--image" */
    const char **value; /* or NULL: a flag */
    bool *flag;
};

/* Moves the options out of argv; what is left are operands, their number returned. Negative (and
 * said on stderr) for an unknown option or a missing value. "--" ends the options. */
int args_take(int argc, char **argv, const struct arg *args, size_t arg_ct);

/* A number of an argument within [min, max]; negative with *err naming `what` otherwise. */
int args_number(const char *what, const char *text, long min, long max, long *ret,
                struct error *err);

/* ---- commands; argv without the command's name ---- */

int cmd_submit(struct client *c, int argc, char **argv);
int cmd_jobs(struct client *c, int argc, char **argv);
int cmd_job(struct client *c, int argc, char **argv);
int cmd_why(struct client *c, int argc, char **argv);
int cmd_logs(struct client *c, int argc, char **argv);
int cmd_feedback(struct client *c, int argc, char **argv);
int cmd_cancel(struct client *c, int argc, char **argv);
int cmd_requeue(struct client *c, int argc, char **argv);
int cmd_labs(struct client *c, int argc, char **argv);
int cmd_vmms(struct client *c, int argc, char **argv);
int cmd_drain(struct client *c, int argc, char **argv);
int cmd_resume(struct client *c, int argc, char **argv);
int cmd_machines(struct client *c, int argc, char **argv);
int cmd_pools(struct client *c, int argc, char **argv);
int cmd_prealloc(struct client *c, int argc, char **argv);
int cmd_images(struct client *c, int argc, char **argv);
int cmd_callbacks(struct client *c, int argc, char **argv);
int cmd_image(struct client *c, int argc, char **argv);
int cmd_top(struct client *c, int argc, char **argv);
int cmd_bench(struct client *c, int argc, char **argv);
int cmd_doctor(struct client *c, int argc, char **argv);
int cmd_stats(struct client *c, int argc, char **argv);

/* ---- shared by commands ---- */

/* "milonga: MESSAGE" on stderr; returns 1, the status to leave with. */
int client_fail(const struct error *err);

/* Asks and shows: the whole answer with --json (nothing, when it has none), else by `show`. Returns
 * an exit status. */
int client_show(struct client *c, const char *method, const char *path, const json_t *body,
                void (*show)(const struct client *c, const json_t *answer));

/* Follows a job's output to stdout until the job ends; then its exit status. */
int client_follow(struct client *c, long id);

/* What `submit --follow` ends with: 0 to 125 and 128+N as the job's own make ended (1 when that is
 * not told), 124 timed out, 137 memory, 130 cancelled, 75 infrastructure, 1 anything else. */
int job_exit_status(const char *verdict, const char *feedback);

/* A job id of an argument; 0 and said on stderr when it is none. */
long client_job_id(const char *text);

#endif
