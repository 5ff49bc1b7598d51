#ifndef MILONGA_EC2_API_H
#define MILONGA_EC2_API_H

/* A client of EC2's Query API: POST forms that libcurl signs (SigV4), answers in XML, errors by
 * their <Code>. It knows nothing of hosts and jobs.
 *
 * What AWS's own tools read is honoured: AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_EC2,
 * AWS_ENDPOINT_URL, AWS_CA_BUNDLE, and for keys, the first that has any: AWS_ACCESS_KEY_ID with
 * AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; the profile AWS_PROFILE (default) of
 * AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials); the instance's role, from the metadata service
 * (IMDSv2) at AWS_EC2_METADATA_SERVICE_ENDPOINT unless AWS_EC2_METADATA_DISABLED is true. Keys that
 * expire are fetched anew in time, and once more when EC2 says that they have expired.
 *
 * Throttling (RequestLimitExceeded) is answered by backoff with jitter that all calls of a client
 * share, for the limit is the account's. A call is repeated with the same parameters only, which
 * RunInstances bears because of its ClientToken. Any thread. */

#include "base/buf.h"
#include "base/err.h"
#include "services/vmm/drivers/ec2_xml.h"

#include <stdbool.h>
#include <stdint.h>

struct ec2_api;

/* region "": the environment's. */
int ec2_api_new(const char *region, struct ec2_api **ret, struct error *err);
/* No call may be under way. */
void ec2_api_free(struct ec2_api *a);
const char *ec2_api_region(const struct ec2_api *a);
/* What more clients than one know of the account's limit. Both may take a moment, and say 0 when
 * they cannot tell. */
struct ec2_pace {
    int64_t (*quiet)(void *arg); /* for how many ms EC2 is not to be called */
    /* It has throttled us so many times in a row: for how many ms it is not to be called. */
    int64_t (*throttled)(void *arg, unsigned times);
    void *arg;
};
/* Borrowed for good. Before the first call that is to know it. */
void ec2_api_pace(struct ec2_api *a, const struct ec2_pace *pace);
/* Calls give up when it (an eventfd) is readable: those that only ask, at once; RunInstances and
 * TerminateInstances hear their answer first. */
void ec2_api_stop_fd(struct ec2_api *a, int fd);

#define EC2_FORM_MAX 65536

/* Begins a form: "Action=...&Version=...". */
void ec2_form(struct buf *form, const char *action);
/* Appends "&name=value", the value escaped; name is fmt's. */
void ec2_param(struct buf *form, const char *value, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* What an error of EC2 is to us. */
enum ec2_trouble {
    EC2_NO_TROUBLE,
    EC2_CAPACITY, /* not here, or not now: another type, zone or market may do */
    EC2_GONE,     /* the thing is not there (any longer, or not yet) */
    EC2_DENIED,   /* an operator's: rights, keys, clock, parameters */
    EC2_AWAY,     /* no answer, or theirs: later */
    EC2_DRY_RUN,  /* it would have succeeded */
};

struct ec2_outcome {
    enum ec2_trouble trouble;
    bool unsure; /* it failed, and yet EC2 may have done it */
};

/* One call, until deadline (mono). *ret is the answer's root, the caller's to xml_free(); NULL in
 * *ret when it failed. `outcome` may be NULL. The error names the action and EC2's code. */
int ec2_call(struct ec2_api *a, const struct buf *form, int64_t deadline, struct xml **ret,
             struct ec2_outcome *outcome, struct error *err);

/* ---- ec2_keys.c ---- */

struct ec2_keys {
    char *id, *secret;
    char *token;      /* "" for none */
    int64_t until_ms; /* mono; CLOCK_NEVER */
};

/* Finds keys by the chain. */
int ec2_keys_find(int64_t deadline, struct ec2_keys *ret, struct error *err);
void ec2_keys_done(struct ec2_keys *k);
/* The keys of a profile of a credentials file's text. False when it has none. */
bool ec2_keys_parse_profile(const char *text, const char *profile, struct ec2_keys *ret);
/* What the metadata service says of a role (JSON); wall_ms and mono_ms are now. */
int ec2_keys_parse_role(const char *json, size_t len, int64_t wall_ms, int64_t mono_ms,
                        struct ec2_keys *ret, struct error *err);
/* The trouble that an error's code is. */
enum ec2_trouble ec2_trouble_of(const char *code, long status);
/* The <Code> and <Message> of an error's document, "" where it has none; valid as long as x. */
void ec2_error_parts(const struct xml *x, const char **ret_code, const char **ret_message);

#endif
