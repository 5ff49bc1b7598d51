#include "services/dispatcher/outbox.h"

#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/callback.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"
#include "services/dispatcher/thread.h"
#include "wire/job.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define TAKE_MAX      16    /* records of one run of the script */
#define LOOK_MS       100   /* at most so often, whatever the news */
#define IDLE_MS       5000  /* in case that a message was lost */
#define HOLD_MORE_MS  10000 /* beyond a transfer's longest time: reading, reporting */
#define STOP_MS       500   /* for what is under way at the end */
#define RETRY_BASE_MS 1000
#define REPORTS_MAX   1024
#define FEEDBACK_MAX  (1024L * 1024 * 1024)

/* A record as the script `outbox` gave it out. */
struct item {
    char id[24];
    char sha256[SHA256_HEX + 1];
    unsigned tries;
};

struct delivery {
    struct delivery *next;
    struct item item;
    struct callback *callback;
};

/* What came of it, for Redis; kept while that is away. */
struct report {
    struct report *next;
    struct item item;
    const char *how;
    char text[200];
    int64_t due;
};

struct outbox {
    struct dispatcher *d;
    /* For looks: our own where they wait for replicas, else the lease would wait with them. */
    struct rlink *link, *own_link;
    CURLM *multi;
    pthread_t thread;
    atomic_bool quit, news;

    /* the thread's own */
    struct delivery *deliveries;
    unsigned delivery_ct;
    struct report *reports, **reports_end;
    unsigned report_ct;
    int64_t look_at; /* mono */
    int64_t looked;
    char fence[LEAD_FENCE_TEXT]; /* under which it has looked; "" when an answer was lost */
};

struct outbox *outbox_new(struct dispatcher *d)
{
    struct outbox *o = xcalloc(1, sizeof(*o));

    o->d = d;
    o->multi = curl_multi_init();
    o->reports_end = &o->reports;
    o->looked = -LOOK_MS;
    if (!o->multi)
        abort(); /* out of memory, see mem.h */
    curl_multi_setopt(o->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)d->cfg->callback_parallel);
    return o;
}

void outbox_look(struct outbox *o)
{
    if (!atomic_exchange(&o->news, true))
        curl_multi_wakeup(o->multi);
}

/* ---- telling Redis ---- */

static void report(struct outbox *o, const struct item *item, const char *how, const char *text,
                   int64_t due)
{
    struct report *x = xcalloc(1, sizeof(*x));

    x->item = *item;
    snprintf(x->text, sizeof(x->text), "%s", text);
    x->how = how;
    x->due = due;
    *o->reports_end = x;
    o->reports_end = &x->next;
    o->report_ct++;
}

static void report_drop(struct outbox *o)
{
    struct report *x = o->reports;

    o->reports = x->next;
    if (!o->reports)
        o->reports_end = &o->reports;
    o->report_ct--;
    free(x);
}

/* Heard also from one that does not lead, or is in doubt of it: else it would be sent again. */
static int report_sent(struct outbox *o, int argc, const char **argv, struct error *err)
{
    cleanup_reply redisReply *r = NULL;

    argv[0] = "";
    return rlink_eval(o->d->link, &script_outbox_done, argc, argv, NULL, &r, err);
}

static void reports_send(struct outbox *o)
{
    while (o->reports) {
        struct report *x = o->reports;
        struct number due = number(x->due);
        const char *argv[] = {NULL, x->item.id, x->how, x->text, due.text, x->item.sha256};
        struct error err = ERROR_INIT;
        cleanup_reply redisReply *r = NULL;
        int rc =
            strcmp(x->how, "sent") == 0
                ? report_sent(o, ARRAY_SIZE(argv), argv, &err)
                : dispatcher_ask(o->d, &script_outbox_done, ARRAY_SIZE(argv), argv, NULL, &r, &err);

        /* Not the active one: the other tries it again, and has been told nothing wrong. */
        if (rc < 0 && rc != -EPERM && rc != -EAGAIN && err.class == ERR_TEMPORARY)
            return;
        if (rc < 0 && err.class != ERR_TEMPORARY)
            log_event(LOG_ERROR_, "callback.not_reported", "job", x->item.id, "reason", err.msg,
                      NULL);
        report_drop(o);
    }
}

static void retry(struct outbox *o, const struct item *item, const char *host,
                  const struct callback_result *res)
{
    const struct config *c = o->d->cfg;
    int64_t wait = clock_backoff_ms(item->tries, RETRY_BASE_MS, c->callback_retry_cap_ms);

    if (wait < res->retry_after_ms)
        wait = res->retry_after_ms;
    if (item->tries + 1 >= (unsigned)c->callback_max_tries) {
        log_event(LOG_ERROR_, "callback.given_up", "job", item->id, "host", host, "tries",
                  LOG_NUM(item->tries + 1), "reason", res->text, NULL);
        report(o, item, "failed", res->text, 0);
        return;
    }
    log_event(LOG_WARN_, "callback.retry", "job", item->id, "host", host, "tries",
              LOG_NUM(item->tries + 1), "wait_ms", LOG_NUM(wait), "reason", res->text, NULL);
    report(o, item, "retry", res->text, clock_wall_ms() + wait);
}

static void conclude(struct outbox *o, const struct item *item, const char *host,
                     const struct callback_result *res)
{
    if (res->how == CALLBACK_RETRY) {
        retry(o, item, host, res);
    } else if (res->how == CALLBACK_SENT) {
        log_event(LOG_INFO_, "callback.sent", "job", item->id, "host", host, NULL);
        report(o, item, "sent", res->text, 0);
    } else {
        log_event(LOG_ERROR_, "callback.failed", "job", item->id, "host", host, "reason", res->text,
                  NULL);
        report(o, item, "failed", res->text, 0);
    }
}

/* ---- taking what is due ---- */

static int read_feedback(struct outbox *o, const char *sha256, char **ret, size_t *ret_len,
                         struct error *err)
{
    cleanup_close int fd = -1;
    uint64_t size;
    size_t have = 0;
    int rc = store_get(o->d->store, sha256, &fd, &size, err);

    if (rc < 0)
        return rc;
    if (size > FEEDBACK_MAX)
        return err_set(err, ERR_PERMANENT, EFBIG, "the feedback is too large to send");
    cleanup_free char *data = xmalloc(size + 1);
    while (have < size) {
        ssize_t n = read(fd, data + have, size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set_errno(err, ERR_TEMPORARY, n < 0 ? errno : EIO, "reading feedback");
        have += (size_t)n;
    }
    *ret = TAKE_PTR(data);
    *ret_len = have;
    return 0;
}

static int prepare(struct outbox *o, const redisReply *e, struct callback **ret, struct error *err)
{
    const redisReply *body = reply_bytes(e, 1);
    cleanup_job struct job *job = NULL;
    char *content = NULL;
    size_t len = 0;
    int rc;

    rc = job_decode(body ? body->str : "", body ? body->len : 0, &job, err);
    if (rc < 0)
        return rc;
    if (!job->callback_url)
        return err_set(err, ERR_PERMANENT, EINVAL, "the job has no callback URL");
    rc = read_feedback(o, reply_str(e, 2), &content, &len, err);
    if (rc < 0)
        return rc;
    if (job->callback_secret)
        return callback_new_signed(o->d->cfg, job, reply_str(e, 0), reply_str(e, 4),
                                   reply_num(e, 5), content, len, ret, err);
    return callback_new(o->d->cfg, job->callback_url, job->output_file, content, len, ret, err);
}

/* Due again although it is in our hands: so long did something take. */
static bool in_hand(const struct outbox *o, const char *id)
{
    for (const struct delivery *x = o->deliveries; x; x = x->next)
        if (strcmp(x->item.id, id) == 0)
            return true;
    for (const struct report *x = o->reports; x; x = x->next)
        if (strcmp(x->item.id, id) == 0)
            return true;
    return false;
}

static struct item item_of(const redisReply *e)
{
    struct item item = {.tries = (unsigned)reply_num(e, 3)};

    snprintf(item.id, sizeof(item.id), "%s", reply_str(e, 0));
    snprintf(item.sha256, sizeof(item.sha256), "%s", reply_str(e, 2));
    return item;
}

static void begin(struct outbox *o, const redisReply *e)
{
    struct item item = item_of(e);
    struct error err = ERROR_INIT;
    struct callback *c;
    struct delivery *x;

    if (prepare(o, e, &c, &err) < 0) {
        struct callback_result res = {.how = err.class == ERR_TEMPORARY ? CALLBACK_RETRY
                                                                        : CALLBACK_FAILED};
        snprintf(res.text, sizeof(res.text), "%.199s", err.msg);
        conclude(o, &item, "", &res);
        return;
    }
    x = xcalloc(1, sizeof(*x));
    x->item = item;
    x->callback = c;
    x->next = o->deliveries;
    o->deliveries = x;
    o->delivery_ct++;
    CRASHPOINT("callback", "send", "before");
    curl_multi_add_handle(o->multi, callback_handle(c, x));
}

/* What is told outside must not be forgotten by a failover: do the replicas have what was
 * committed, up to these callbacks, which were taken on `connection`? */
static bool replicated(struct outbox *o, uint64_t connection)
{
    const struct config *c = o->d->cfg;
    int64_t most = c->redis_timeout_ms / 2;
    struct number least = number(c->redis_replicas), most_ms;
    const char *argv[] = {"WAIT", least.text, most_ms.text};
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;

    if (c->redis_replicas == 0)
        return true;
    if (most > c->leader_lease_ms / 4)
        most = c->leader_lease_ms / 4; /* another could lead meanwhile; and transfers wait for it */
    most_ms = number(most);
    if (rlink_command(o->link, ARRAY_SIZE(argv), argv, NULL, &r, &err) < 0)
        return false;
    return connection != 0 && rlink_connection(o->link) == connection &&
           r->type == REDIS_REPLY_INTEGER && r->integer >= c->redis_replicas;
}

static void put_off(struct outbox *o, const redisReply *taken)
{
    /* Reckoned from here: the replicas were waited for. */
    int64_t wait = o->d->cfg->beat_ms, due = clock_wall_ms() + wait;

    o->look_at = clock_mono_ms() + wait;
    log_event(LOG_WARN_, "callback.put_off", "reason", "too few replicas of Redis answer", NULL);
    for (size_t i = 2; i < taken->elements; i++) {
        struct item item = item_of(reply_list(taken, i));

        if (!in_hand(o, item.id))
            report(o, &item, "release", "", due);
    }
}

static void look(struct outbox *o)
{
    const struct config *c = o->d->cfg;
    /* What is taken can be reported, however long Redis is away. */
    int64_t room = o->report_ct >= REPORTS_MAX ? 0 : c->callback_parallel - o->delivery_ct,
            mono = clock_mono_ms(), wall;
    struct number now, most = number(room < TAKE_MAX ? room : TAKE_MAX),
                       hold = number(c->callback_timeout_ms + HOLD_MORE_MS),
                       delay = number(c->callback_delay_ms);
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *r = NULL;
    char fence[LEAD_FENCE_TEXT];
    uint64_t connection = rlink_connection(o->link);

    o->looked = mono;
    o->look_at = mono + IDLE_MS;
    if (room <= 0)
        return; /* looks again when one has ended */
    wall = clock_wall_ms();
    now = number(wall);
    lead_fence(o->d->lead, fence);
    /* What another leader took, or we in a look whose answer did not come, nobody delivers. */
    const char *again = strcmp(fence, o->fence) != 0 ? "1" : "0";
    const char *argv[] = {NULL, now.text, most.text, hold.text, delay.text, again};
    o->fence[0] = '\0';
    if (dispatcher_ask_by(o->d, o->link, &script_outbox, ARRAY_SIZE(argv), argv, NULL, &r, &err) <
        0) {
        if (err.class != ERR_TEMPORARY)
            log_event(LOG_ERROR_, "outbox.failed", "reason", err.msg, NULL);
        o->look_at = mono + c->beat_ms;
        return;
    }
    memcpy(o->fence, fence, sizeof(fence));
    if (r->elements > 2 && !replicated(o, connection)) {
        put_off(o, r);
        return;
    }
    for (size_t i = 2; i < r->elements; i++)
        if (!in_hand(o, reply_str(reply_list(r, i), 0)))
            begin(o, reply_list(r, i));
    if (reply_str(r, 1)[0]) {
        int64_t wait = reply_num(r, 1) - wall;
        if (wait < IDLE_MS)
            o->look_at = mono + (wait > 0 ? wait : 0);
    }
}

/* ---- transfers ---- */

static void delivery_free(struct outbox *o, struct delivery *x)
{
    struct delivery **at = &o->deliveries;

    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    o->delivery_ct--;
    callback_free(x->callback);
    free(x);
}

static void ended(struct outbox *o, CURL *easy, CURLcode rc)
{
    struct delivery *x = NULL;
    struct callback_result res;

    CRASHPOINT("callback", "answer", "after");
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&x);
    curl_multi_remove_handle(o->multi, easy);
    if (callback_ended(x->callback, rc, &res)) {
        curl_multi_add_handle(o->multi, easy);
        return;
    }
    conclude(o, &x->item, callback_host(x->callback), &res);
    delivery_free(o, x);
    o->look_at = 0; /* there is room */
}

static void transfer(struct outbox *o)
{
    int running, left;
    CURLMsg *m;

    curl_multi_perform(o->multi, &running);
    while ((m = curl_multi_info_read(o->multi, &left)))
        if (m->msg == CURLMSG_DONE)
            ended(o, m->easy_handle, m->data.result);
}

static int wait_ms(const struct outbox *o)
{
    int64_t at = o->look_at > o->looked + LOOK_MS ? o->look_at : o->looked + LOOK_MS;

    if (!lead_is_ours(o->d->lead))
        return IDLE_MS;
    if (o->reports)
        return 100; /* Redis is away */
    return clock_until_ms(at);
}

static void stop(struct outbox *o)
{
    int64_t until = clock_mono_ms() + STOP_MS;

    while (o->deliveries && clock_mono_ms() < until) {
        transfer(o);
        if (o->deliveries)
            curl_multi_poll(o->multi, NULL, 0, clock_until_ms(until), NULL);
    }
    while (o->deliveries) {
        struct delivery *x = o->deliveries;
        report(o, &x->item, "release", "", clock_wall_ms());
        curl_multi_remove_handle(o->multi, callback_handle(x->callback, x));
        delivery_free(o, x);
    }
    reports_send(o);
}

static void *run(void *arg)
{
    struct outbox *o = arg;

    while (!atomic_load(&o->quit)) {
        int64_t now;

        transfer(o);
        reports_send(o);
        /* Taken in any case: news that stand already wake nobody. */
        if (atomic_exchange(&o->news, false))
            o->look_at = 0;
        now = clock_mono_ms();
        if (lead_is_ours(o->d->lead) && now >= o->look_at && now >= o->looked + LOOK_MS)
            look(o);
        curl_multi_poll(o->multi, NULL, 0, wait_ms(o), NULL);
    }
    stop(o);
    return NULL;
}

static void on_link_up(void *arg)
{
    outbox_look(arg);
}

int outbox_start(struct outbox *o, struct error *err)
{
    const struct config *c = o->d->cfg;
    struct rlink_options opt = {
        .url = c->redis_url,
        .prefix = c->redis_prefix,
        .timeout_ms = (unsigned)c->redis_timeout_ms,
        .on_up = on_link_up,
        .arg = o,
    };
    int rc = 0;

    if (c->redis_replicas > 0)
        rc = rlink_start(&opt, &o->own_link, err);
    if (rc < 0)
        return rc;
    o->link = o->own_link ? o->own_link : o->d->link;
    o->thread = thread_start(run, o);
    return 0;
}

void outbox_stop(struct outbox *o)
{
    atomic_store(&o->quit, true);
    curl_multi_wakeup(o->multi);
    pthread_join(o->thread, NULL);
}

void outbox_free(struct outbox *o)
{
    if (!o)
        return;
    rlink_stop(o->own_link);
    while (o->reports)
        report_drop(o);
    curl_multi_cleanup(o->multi);
    free(o);
}
