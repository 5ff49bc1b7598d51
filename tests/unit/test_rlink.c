/* The Redis link against a real server on a unix socket, which the tests kill, stop and restart. */

#include "wire/rlink.h"
#include "wire/rsentinel.h"
#include "wire/rurl.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define LONG_MS 10000

SCRIPT_DEFINE(script_echo, "echo", "return {KEYS[1], ARGV[1], ARGV[2]}");
SCRIPT_DEFINE(script_push, "push", "return redis.call('RPUSH', KEYS[1] .. ':list', ARGV[1])");
SCRIPT_DEFINE(script_bad, "bad", "return redis.call('NOSUCH')");
SCRIPT_DEFINE(script_spin, "spin", "while true do end");

static char dir[] = "/tmp/milonga-rlink-XXXXXX";
static char socket_path[64], url[80];
static pid_t server = -1;

static void server_start(const char *option, const char *value)
{
    server = fork();
    assert_true(server >= 0);
    if (server == 0) {
        int fd = open("/dev/null", O_RDWR);

        dup2(fd, 1);
        dup2(fd, 2);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket_path, "--dir",
               dir, "--save", "", "--busy-reply-threshold", "50", option, value, (char *)NULL);
        _exit(127);
    }
}

static void server_kill(void)
{
    if (server < 0)
        return;
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    server = -1;
}

/* What the link told, for the tests' thread to wait on. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned ups, downs, messages;
    char why[256], channel[64], data[64];
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void seen_tell(unsigned *count)
{
    ++*count;
    pthread_cond_broadcast(&seen.cond);
    pthread_mutex_unlock(&seen.lock);
}

static void on_up(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&seen.lock);
    seen_tell(&seen.ups);
}

static void on_down(const char *why, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&seen.lock);
    snprintf(seen.why, sizeof(seen.why), "%s", why);
    seen_tell(&seen.downs);
}

static void on_message(const char *channel, const char *data, size_t len, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&seen.lock);
    snprintf(seen.channel, sizeof(seen.channel), "%s", channel);
    snprintf(seen.data, sizeof(seen.data), "%.*s", (int)len, data);
    seen_tell(&seen.messages);
}

static void wait_for(const unsigned *count, unsigned least)
{
    struct timespec end;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += LONG_MS / 1000;
    pthread_mutex_lock(&seen.lock);
    while (*count < least && r == 0)
        r = pthread_cond_timedwait(&seen.cond, &seen.lock, &end);
    pthread_mutex_unlock(&seen.lock);
    assert_int_equal(r, 0);
}

/* Up, and what was told of tries before the server was there is forgotten. */
static void wait_up(void)
{
    wait_for(&seen.ups, 1);
    seen.downs = 0;
}

static struct rlink *link_start(const char *to, unsigned timeout_ms)
{
    static const char *const channels[] = {"wake", "pools", NULL};
    struct rlink_options opt = {
        .url = to,
        .prefix = "{t}",
        .timeout_ms = timeout_ms,
        .channels = channels,
        .on_message = on_message,
        .on_up = on_up,
        .on_down = on_down,
    };
    struct rlink *l = NULL;
    struct error err = ERROR_INIT;

    seen.ups = seen.downs = seen.messages = 0;
    seen.why[0] = '\0';
    assert_int_equal(rlink_start(&opt, &l, &err), 0);
    return l;
}

static int command(struct rlink *l, redisReply **ret, struct error *err, const char *a,
                   const char *b, const char *c, const char *d)
{
    const char *argv[] = {a, b, c, d};
    int argc = 1;

    while (argc < 4 && argv[argc])
        argc++;
    return rlink_command(l, argc, argv, NULL, ret, err);
}

static int group_setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(socket_path, sizeof(socket_path), "%s/s", dir);
    snprintf(url, sizeof(url), "unix://%s", socket_path);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    server_kill();
    unlink(socket_path);
    return rmdir(dir);
}

static int server_setup(void **state)
{
    (void)state;
    server_start("--appendonly", "no");
    return 0;
}

static int server_teardown(void **state)
{
    (void)state;
    server_kill();
    return 0;
}

static void eval_is_binary_safe(void **state)
{
    struct rlink *l = link_start(url, 2000);
    const char *argv[] = {"a\0b", ""};
    const size_t lens[] = {3, 0};
    struct error err = ERROR_INIT;

    (void)state;
    wait_up();
    assert_true(rlink_is_up(l));
    for (int i = 0; i < 3; i++) { /* by EVAL, then by EVALSHA */
        cleanup_reply redisReply *reply = NULL;

        assert_int_equal(rlink_eval(l, &script_echo, 2, argv, lens, &reply, &err), 0);
        assert_int_equal(reply->type, REDIS_REPLY_ARRAY);
        assert_int_equal(reply->elements, 3);
        assert_string_equal(reply->element[0]->str, "{t}");
        assert_int_equal(reply->element[1]->len, 3);
        assert_memory_equal(reply->element[1]->str, "a\0b", 3);
        assert_int_equal(reply->element[2]->len, 0);
    }
    rlink_stop(l);
}

static void noscript_falls_back_to_eval(void **state)
{
    struct rlink *l = link_start(url, 2000);
    const char *argv[] = {"x", "y"};
    struct error err = ERROR_INIT;

    (void)state;
    wait_up();
    for (int i = 0; i < 3; i++) {
        cleanup_reply redisReply *reply = NULL, *flushed = NULL;

        assert_int_equal(rlink_eval(l, &script_echo, 2, argv, NULL, &reply, &err), 0);
        assert_string_equal(reply->element[2]->str, "y");
        assert_int_equal(command(l, &flushed, &err, "SCRIPT", "FLUSH", NULL, NULL), 0);
    }
    rlink_stop(l);
}

static void errors_have_classes(void **state)
{
    struct rlink *l = link_start(url, 3000);
    const char *argv[] = {"x", "y"};
    cleanup_reply redisReply *reply = NULL, *set = NULL;
    struct error err = ERROR_INIT;

    (void)state;
    wait_up();
    assert_int_equal(rlink_eval(l, &script_bad, 0, NULL, NULL, &reply, &err), -EPROTO);
    assert_int_equal(err.class, ERR_BUG);
    assert_non_null(strstr(err.msg, "bad"));
    assert_int_equal(command(l, &set, &err, "CONFIG", "SET", "maxmemory", "1"), 0);
    assert_int_equal(rlink_eval(l, &script_push, 1, argv, NULL, &reply, &err), -ENOMEM);
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_null(reply);
    rlink_stop(l);
}

static void *spin(void *arg)
{
    redisReply *reply = NULL;
    struct error err = ERROR_INIT;

    assert_int_equal(rlink_eval(arg, &script_spin, 0, NULL, NULL, &reply, &err), -EPROTO);
    return NULL;
}

static void busy_is_temporary(void **state)
{
    struct rlink *l = link_start(url, 5000), *other;
    const char *argv[] = {"x", "y"};
    struct error err = ERROR_INIT;
    cleanup_reply redisReply *reply = NULL, *killed = NULL;
    pthread_t thread;
    int r;

    (void)state;
    wait_up();
    other = link_start(url, 5000);
    wait_for(&seen.ups, 1);
    assert_int_equal(pthread_create(&thread, NULL, spin, l), 0);
    do {
        rlink_reply_freep(&reply);
        reply = NULL;
        r = rlink_eval(other, &script_echo, 2, argv, NULL, &reply, &err);
    } while (r == 0);
    assert_int_equal(r, -EBUSY);
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(command(other, &killed, &err, "SCRIPT", "KILL", NULL, NULL), 0);
    pthread_join(thread, NULL);
    rlink_stop(l);
    rlink_stop(other);
}

static void publish(struct rlink *l, const char *channel, const char *data)
{
    cleanup_reply redisReply *reply = NULL;
    struct error err = ERROR_INIT;

    assert_int_equal(command(l, &reply, &err, "PUBLISH", channel, data, NULL), 0);
    assert_int_equal(reply->integer, 1); /* on_up means: subscribed */
}

static void kill_and_restart(void **state)
{
    struct rlink *l = link_start(url, 2000);
    char before[41], after[41];
    uint64_t connection;
    cleanup_reply redisReply *reply = NULL;
    struct error err = ERROR_INIT;
    int64_t start;

    (void)state;
    wait_up();
    rlink_run_id(l, before);
    assert_int_equal(strlen(before), 40);
    connection = rlink_connection(l);
    assert_int_not_equal(connection, 0);
    publish(l, "{t}:wake", "one");
    wait_for(&seen.messages, 1);
    assert_string_equal(seen.channel, "wake");
    assert_string_equal(seen.data, "one");

    server_kill();
    wait_for(&seen.downs, 1);
    while (rlink_is_up(l))
        ;
    start = clock_mono_ms();
    do {
        assert_int_not_equal(command(l, &reply, &err, "PING", NULL, NULL, NULL), 0);
    } while (err.code == ECONNRESET && clock_mono_ms() - start < LONG_MS);
    assert_int_equal(err.code, ENOTCONN);
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(rlink_send(l, &script_push, 0, NULL, NULL, NULL, NULL), -EAGAIN);
    rlink_run_id(l, after);
    assert_string_equal(after, "");
    assert_int_equal(rlink_connection(l), 0);

    server_start("--appendonly", "no");
    wait_for(&seen.ups, 2);
    rlink_run_id(l, after);
    assert_int_equal(strlen(after), 40);
    assert_string_not_equal(before, after);
    assert_int_not_equal(rlink_connection(l), 0);
    assert_int_not_equal(rlink_connection(l), connection);
    publish(l, "{t}:pools", "two");
    wait_for(&seen.messages, 2);
    assert_string_equal(seen.channel, "pools");
    assert_string_equal(seen.data, "two");
    rlink_stop(l);
}

static void *kill_soon(void *arg)
{
    (void)arg;
    usleep(100000);
    kill(server, SIGKILL);
    return NULL;
}

static void lost_while_waiting(void **state)
{
    struct rlink *l = link_start(url, 5000);
    redisReply *reply = NULL;
    struct error err = ERROR_INIT;
    pthread_t thread;

    (void)state;
    wait_up();
    assert_int_equal(pthread_create(&thread, NULL, kill_soon, NULL), 0);
    assert_int_equal(command(l, &reply, &err, "BLPOP", "nothing", "0", NULL), -ECONNRESET);
    assert_int_equal(err.class, ERR_TEMPORARY);
    pthread_join(thread, NULL);
    rlink_stop(l);
}

static void stopped_server_is_dropped(void **state)
{
    struct rlink *l = link_start(url, 300);
    cleanup_reply redisReply *reply = NULL;
    struct error err = ERROR_INIT;
    int64_t start;

    (void)state;
    wait_up();
    kill(server, SIGSTOP);
    start = clock_mono_ms();
    assert_int_equal(command(l, &reply, &err, "PING", NULL, NULL, NULL), -ECONNRESET);
    assert_in_range(clock_mono_ms() - start, 250, 3000);
    wait_for(&seen.downs, 1);
    assert_false(rlink_is_up(l));
    kill(server, SIGCONT);
    wait_for(&seen.ups, 2);
    publish(l, "{t}:wake", "again");
    wait_for(&seen.messages, 1);
    rlink_stop(l);
}

static void idle_silence_is_noticed(void **state)
{
    struct rlink *l = link_start(url, 300);

    (void)state;
    wait_up();
    usleep(1000000); /* several pings, which must not take it down */
    assert_int_equal(seen.downs, 0);
    kill(server, SIGSTOP);
    wait_for(&seen.downs, 1);
    kill(server, SIGCONT);
    rlink_stop(l);
}

static void *stop_soon(void *arg)
{
    usleep(100000);
    rlink_stop(arg);
    return NULL;
}

static void stop_ends_calls(void **state)
{
    struct rlink *l = link_start(url, 5000);
    redisReply *reply = NULL;
    struct error err = ERROR_INIT;
    pthread_t thread;

    (void)state;
    wait_up();
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, l), 0);
    assert_int_equal(command(l, &reply, &err, "BLPOP", "nothing", "0", NULL), -ECONNABORTED);
    pthread_join(thread, NULL);
}

static void count_done(void *arg, const redisReply *reply)
{
    unsigned *counts = arg;

    pthread_mutex_lock(&seen.lock);
    seen_tell(&counts[reply && reply->type == REDIS_REPLY_INTEGER ? 0 : 1]);
}

static void sends_keep_their_order(void **state)
{
    enum { SENDS = 1000 };
    struct rlink *l = link_start(url, 5000);
    cleanup_reply redisReply *list = NULL;
    struct error err = ERROR_INIT;
    unsigned counts[2] = {0};

    (void)state;
    wait_up();
    for (int i = 0; i < SENDS; i++) {
        char text[16];
        const char *argv[] = {text};

        snprintf(text, sizeof(text), "%d", i);
        assert_int_equal(rlink_send(l, &script_push, 1, argv, NULL, count_done, counts), 0);
    }
    assert_int_equal(command(l, &list, &err, "LRANGE", "{t}:list", "0", "-1"), 0);
    assert_int_equal(list->elements, SENDS);
    for (int i = 0; i < SENDS; i++)
        assert_int_equal(atoi(list->element[i]->str), i);
    wait_for(&counts[0], SENDS);
    rlink_stop(l);
}

static void sends_are_bounded_and_ended(void **state)
{
    struct rlink *l = link_start(url, 5000);
    static char big[1 << 20];
    const char *argv[] = {big};
    const size_t lens[] = {sizeof(big)};
    unsigned counts[2] = {0}, taken = 0;
    int r;

    (void)state;
    wait_up();
    kill(server, SIGSTOP);
    while ((r = rlink_send(l, &script_push, 1, argv, lens, count_done, counts)) == 0)
        taken++;
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(taken, RLINK_SEND_BYTES_MAX / sizeof(big));
    rlink_stop(l);
    assert_int_equal(counts[0] + counts[1], taken);
    kill(server, SIGCONT);
}

static void *caller(void *arg)
{
    for (int i = 0; i < 200; i++) {
        const char *argv[] = {"x", "y"};
        cleanup_reply redisReply *reply = NULL;
        struct error err = ERROR_INIT;

        assert_int_equal(rlink_eval(arg, &script_echo, 2, argv, NULL, &reply, &err), 0);
    }
    return NULL;
}

static void many_threads_call(void **state)
{
    struct rlink *l = link_start(url, 5000);
    pthread_t threads[8];

    (void)state;
    wait_up();
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, caller, l), 0);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    rlink_stop(l);
}

static void eviction_is_refused(void **state)
{
    struct rlink *l;

    (void)state;
    server_kill();
    server_start("--maxmemory-policy", "allkeys-lru");
    unlink(socket_path);
    l = link_start(url, 2000);
    do
        wait_for(&seen.downs, seen.downs + 1);
    while (!strstr(seen.why, "maxmemory"));
    assert_non_null(strstr(seen.why, "set maxmemory-policy noeviction"));
    assert_int_equal(seen.ups, 0);
    rlink_stop(l);
}

static void password_and_db(void **state)
{
    char with[128], wrong[128];
    struct rlink *l;
    cleanup_reply redisReply *reply = NULL;
    struct error err = ERROR_INIT;

    (void)state;
    server_kill();
    unlink(socket_path);
    server_start("--requirepass", "p@ss word");
    snprintf(wrong, sizeof(wrong), "unix://:nope@%s", socket_path);
    snprintf(with, sizeof(with), "unix://:p%%40ss%%20word@%s?db=3", socket_path);
    l = link_start(wrong, 2000);
    do
        wait_for(&seen.downs, seen.downs + 1);
    while (!strstr(seen.why, "AUTH"));
    rlink_stop(l);
    l = link_start(with, 2000);
    wait_up();
    assert_int_equal(command(l, &reply, &err, "CLIENT", "INFO", NULL, NULL), 0);
    assert_non_null(strstr(reply->str, " db=3 "));
    assert_non_null(strstr(reply->str, " name=milonga "));
    rlink_stop(l);
}

static void names_are_looked_up(void **state)
{
    struct rlink *l = link_start("redis://localhost:1", 2000);

    (void)state;
    wait_for(&seen.downs, 1);
    assert_non_null(strstr(seen.why, "refused"));
    rlink_stop(l);
}

static void urls(void **state)
{
    static const char *const bad[] = {
        "",
        "http://x",
        "unix://",
        "unix://relative",
        "unix:///x?db=",
        "unix:///x?foo",
        "redis://",
        "redis://:6379",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:",
        "redis://h/x",
        "redis://[::1",
        "redis://[::1]x",
        "redis://user@h",
        "redis://:%zz@h",
        "redis://:%00@h",
        "redis://:secret@h:x",
    };
    struct error err = ERROR_INIT;
    struct rurl u;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(rurl_parse(bad[i], &u, &err), -EINVAL);
        assert_null(strstr(err.msg, "secret"));
    }
    assert_int_equal(rurl_parse("redis://me:p%3aq@[::1]:7000/5", &u, &err), 0);
    assert_string_equal(u.user, "me");
    assert_string_equal(u.password, "p:q");
    assert_string_equal(u.host, "::1");
    assert_int_equal(u.port, 7000);
    assert_int_equal(u.db, 5);
    rurl_done(&u);
    assert_int_equal(rurl_parse("redis://h", &u, &err), 0);
    assert_string_equal(u.host, "h");
    assert_int_equal(u.port, 6379);
    assert_null(u.password);
    rurl_done(&u);
    assert_int_equal(rurl_parse("unix:///a@b?db=2", &u, &err), 0);
    assert_string_equal(u.path, "/a@b");
    assert_int_equal(u.db, 2);
    rurl_done(&u);
}

static void sentinel_urls(void **state)
{
    static const char *const bad[] = {
        "redis+sentinel://",
        "redis+sentinel:///m",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel://h,/",
        "redis+sentinel://h,,i/m",
        "redis+sentinel://h:0/m",
        "redis+sentinel://h/m/x",
        "redis+sentinel://h/m/70000",
        "redis+sentinel://user@h/m",
        "redis+sentinel://:secret@h/m?x=1",
        "redis+sentinel://h/m?sentinel_user=a",
        "redis+sentinel://h/m?sentinel_password=%zz",
        "redis+sentinel://a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p/m",
    };
    struct error err = ERROR_INIT;
    struct rurl u;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(rurl_parse(bad[i], &u, &err), -EINVAL);
        assert_null(strstr(err.msg, "secret"));
    }
    assert_int_equal(rurl_parse("redis+sentinel://me:p%2f@h,[::1]:7000,i:1/grades/3"
                                "?sentinel_password=a%26b&sentinel_user=s",
                                &u, &err),
                     0);
    assert_null(u.host);
    assert_string_equal(u.user, "me");
    assert_string_equal(u.password, "p/");
    assert_int_equal(u.db, 3);
    assert_string_equal(u.master, "grades");
    assert_int_equal(u.sentinel_ct, 3);
    assert_string_equal(u.sentinels[0].host, "h");
    assert_int_equal(u.sentinels[0].port, 26379);
    assert_string_equal(u.sentinels[1].host, "::1");
    assert_int_equal(u.sentinels[1].port, 7000);
    assert_int_equal(u.sentinels[2].port, 1);
    assert_string_equal(u.sentinel_user, "s");
    assert_string_equal(u.sentinel_password, "a&b");
    rurl_done(&u);
}

static void more_than_half_of_the_sentinels_decide(void **state)
{
    char one[] = "1.1.1.1", two[] = "2.2.2.2";
    struct rsentinel_answer a[4] = {{one, 1}, {two, 1}, {two, 2}, {two, 1}};

    (void)state;
    assert_int_equal(rsentinel_majority(a, 1), 0);
    assert_int_equal(rsentinel_majority(a, 2), -1);
    assert_int_equal(rsentinel_majority(a, 3), -1);
    assert_int_equal(rsentinel_majority(a, 4), -1);
    a[2].port = 1;
    assert_int_equal(rsentinel_majority(a, 3), 1);
    assert_int_equal(rsentinel_majority(a, 4), 1);
    a[1].host = a[2].host = NULL;
    assert_int_equal(rsentinel_majority(a, 3), -1);
    assert_int_equal(rsentinel_majority(a, 0), -1);
}

/* A port of the loopback that nobody listens on when it is returned. */
static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    close(fd);
    return ntohs(at.sin_port);
}

/* None of them answers: told, and with what is wrong. */
static void absent_sentinels_are_told(void **state)
{
    cleanup_free char *to =
        xasprintf("redis+sentinel://127.0.0.1:%d,localhost:%d/m", free_port(), free_port());
    struct rlink *l = link_start(to, 2000);

    (void)state;
    wait_for(&seen.downs, 1);
    assert_non_null(strstr(seen.why, "of 2 Sentinels 0 name a master of m"));
    assert_non_null(strstr(seen.why, "127.0.0.1:"));
    rlink_stop(l);
}

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, server_setup, server_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls),
        cmocka_unit_test(sentinel_urls),
        cmocka_unit_test(more_than_half_of_the_sentinels_decide),
        cmocka_unit_test(absent_sentinels_are_told),
        cmocka_unit_test(names_are_looked_up),
        WITH_SERVER(eval_is_binary_safe),
        WITH_SERVER(noscript_falls_back_to_eval),
        WITH_SERVER(errors_have_classes),
        WITH_SERVER(busy_is_temporary),
        WITH_SERVER(kill_and_restart),
        WITH_SERVER(lost_while_waiting),
        WITH_SERVER(stopped_server_is_dropped),
        WITH_SERVER(idle_silence_is_noticed),
        WITH_SERVER(stop_ends_calls),
        WITH_SERVER(sends_keep_their_order),
        WITH_SERVER(sends_are_bounded_and_ended),
        WITH_SERVER(many_threads_call),
        WITH_SERVER(eviction_is_refused),
        WITH_SERVER(password_and_db),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
