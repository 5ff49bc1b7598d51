#ifndef MILONGA_DISPATCHER_CALLBACK_H
#define MILONGA_DISPATCHER_CALLBACK_H

/* One delivery of feedback by HTTP (spec/tango 3.3): a multipart form with one part, name="file";
 * filename="file", which has no Content-Type of its own. Redirects are followed here, each as a
 * POST with the same body, so that the rule which hosts' certificates are verified holds for each
 * host on the way. Pure of Redis. */

#include "base/config.h"
#include "base/err.h"
#include "wire/job.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct callback;

enum callback_how { CALLBACK_SENT, CALLBACK_FAILED, CALLBACK_RETRY };

struct callback_result {
    enum callback_how how;
    char text[200];         /* status or reason; never the URL, which holds a secret */
    int64_t retry_after_ms; /* as the server wished; 0 none */
};

/* content is malloc'ed and taken, whatever comes of it; bytes of it that are not UTF-8 are dropped.
 * Fails (ERR_PERMANENT) on a URL that is none or is not http or https. */
int callback_new(const struct config *cfg, const char *url, const char *output_file, char *content,
                 size_t len, struct callback **ret, struct error *err);
/* The same in the signed form (webhook.h), for a job with a secret; the id of the message is the
 * job's, so it is the same at each try, and so is the body. */
int callback_new_signed(const struct config *cfg, const struct job *job, const char *id,
                        const char *verdict, int64_t finished_ms, char *content, size_t len,
                        struct callback **ret, struct error *err);
void callback_free(struct callback *c); /* not while its handle is in a multi */

/* The handle to put into a multi; its CURLOPT_PRIVATE is `owner`. */
CURL *callback_handle(struct callback *c, void *owner);
const char *callback_host(const struct callback *c);

/* The transfer ended with `rc`: true when it goes on elsewhere, and the handle must be taken out of
 * the multi and put in again. */
bool callback_ended(struct callback *c, CURLcode rc, struct callback_result *ret);

/* What a status means; pure. */
enum callback_how callback_judge(long status);

/* Drops bytes that are no part of valid UTF-8, in place; the new length. */
size_t utf8_clean(char *s, size_t len);

/* Is `host` in a comma list of hosts, whatever the case? */
bool host_listed(const char *list, const char *host);

#endif
