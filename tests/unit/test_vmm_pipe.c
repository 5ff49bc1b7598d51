/* The vmm's end of the pipe, against a peer that the test plays; and the tar of a job's files over
 * it. */

#include "services/vmm/pipe.c"

#include "services/vmm/copyin.c"
#include "services/vmm/sync.c"

#include <archive.h>
#include <archive_entry.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

static ssize_t read_plain(struct machine *m, void *data, size_t len)
{
    ssize_t n = recv(m->out_fd, data, len, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static const struct driver plain_driver = {.name = "plain", .read = read_plain};

struct set {
    struct machine m;
    struct pipe p;
    int peer; /* the autodriver's end */
    int stop;
};

static void set_up(struct set *s)
{
    int sv[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    s->m = (struct machine){.driver = &plain_driver, .in_fd = sv[0], .out_fd = sv[0]};
    snprintf(s->m.spec.name, sizeof(s->m.spec.name), "m-1000-img");
    s->peer = sv[1];
    s->stop = event_new();
    pipe_init(&s->p, &s->m, s->stop);
}

static void tear_down(struct set *s)
{
    pipe_done(&s->p);
    close(s->m.in_fd);
    if (s->peer >= 0)
        close(s->peer);
    close(s->stop);
}

static void say(int fd, enum frame_type type, const char *data, uint32_t len)
{
    uint8_t head[FRAME_HEAD];
    frame_head(head, type, len);
    assert_int_equal(write_all(fd, head, sizeof(head)), 0);
    if (len > 0)
        assert_int_equal(write_all(fd, data, len), 0);
}

static int64_t soon(int ms)
{
    return clock_mono_ms() + ms;
}

static void test_frames_in_pieces(void **state)
{
    struct set s;
    struct frame f;
    (void)state;
    set_up(&s);
    static const uint8_t bytes[] = {0, 0, 0, 3, 'O', 'a', 'b', 'c', 0, 0, 0, 0, 'L'};
    assert_int_equal(write(s.peer, bytes, 6), 6);
    assert_int_equal(pipe_next(&s.p, soon(20), &f, NULL), -ETIMEDOUT);
    assert_int_equal(write(s.peer, bytes + 6, sizeof(bytes) - 6), sizeof(bytes) - 6);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, NULL), 0);
    assert_int_equal(f.type, FRAME_OUTPUT);
    assert_memory_equal(f.data, "abc", 3);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, NULL), 0);
    assert_int_equal(f.type, FRAME_LOADED);
    tear_down(&s);
}

static void test_last_words_before_the_end(void **state)
{
    struct set s;
    struct frame f;
    (void)state;
    set_up(&s);
    say(s.peer, FRAME_ERROR, "no room", 7);
    close(s.peer);
    s.peer = -1;
    signal(SIGPIPE, SIG_IGN);
    /* The write fails first; what was said before is still there. */
    assert_int_equal(pipe_send(&s.p, FRAME_GO, NULL, 0, soon(1000), NULL), -EPIPE);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, NULL), 0);
    assert_int_equal(f.type, FRAME_ERROR);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, NULL), -EPIPE);
    tear_down(&s);
}

static void test_stop_and_nonsense(void **state)
{
    struct set s;
    struct frame f;
    struct error err = ERROR_INIT;
    (void)state;
    set_up(&s);
    event_signal(s.stop);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, &err), -ECANCELED);
    s.p.stop_fd = -1;
    assert_int_equal(write(s.peer, "\377\377\377\377O", 5), 5);
    assert_int_equal(pipe_next(&s.p, soon(1000), &f, &err), -EPROTO);
    assert_int_equal(err.class, ERR_TEMPORARY);
    tear_down(&s);
}

static void test_heartbeats(void **state)
{
    struct set s;
    struct frame f;
    uint8_t got[64];
    (void)state;
    set_up(&s);
    pipe_beat(&s.p, 20);
    assert_int_equal(pipe_next(&s.p, soon(110), &f, NULL), -ETIMEDOUT);
    ssize_t n = recv(s.peer, got, sizeof(got), MSG_DONTWAIT);
    assert_in_range(n, FRAME_HEAD, 5 * FRAME_HEAD); /* a loaded machine may beat less often */
    assert_int_equal(n % FRAME_HEAD, 0);
    assert_int_equal(got[4], FRAME_HEARTBEAT);
    tear_down(&s);
}

static void *talkative(void *arg)
{
    struct set *s = arg;
    char *page = calloc(1, FRAME_MAX);
    /* Says more than any buffer holds before it reads a byte. */
    for (int i = 0; i < 2; i++)
        say(s->peer, FRAME_OUTPUT, page, FRAME_MAX);
    size_t want = 20 * (size_t)(FRAME_MAX + FRAME_HEAD);
    while (want > 0) {
        ssize_t n = read(s->peer, page, FRAME_MAX);
        if (n <= 0)
            break;
        want -= (size_t)n;
    }
    free(page);
    return want == 0 ? s : NULL;
}

static void test_both_talk(void **state)
{
    struct set s;
    struct frame f;
    void *good;
    (void)state;
    set_up(&s);
    pthread_t t = thread_start(talkative, &s);
    char *page = calloc(1, FRAME_MAX);
    for (int i = 0; i < 20; i++)
        assert_int_equal(pipe_send(&s.p, FRAME_TAR, page, FRAME_MAX, soon(10000), NULL), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pipe_next(&s.p, soon(10000), &f, NULL), 0);
    pthread_join(t, &good);
    assert_non_null(good);
    free(page);
    tear_down(&s);
}

static void test_ready(void **state)
{
    struct error err = ERROR_INIT;
    struct set s;
    (void)state;
    set_up(&s);
    say(s.peer, FRAME_READY, "version=1\npid1=1\n", 17);
    assert_int_equal(pipe_ready(&s.m, soon(1000), -1, NULL), 0);
    assert_true(s.m.ready);
    say(s.peer, FRAME_READY, "version=9\n", 10);
    assert_int_equal(pipe_ready(&s.m, soon(1000), -1, &err), -EPROTO);
    assert_int_equal(err.class, ERR_PERMANENT);
    say(s.peer, FRAME_ERROR, "cannot", 6);
    assert_int_equal(pipe_ready(&s.m, soon(1000), -1, &err), -EPROTO);
    assert_non_null(strstr(err.msg, "cannot"));
    tear_down(&s);
}

/* ---- copyin ---- */

struct tape {
    int fd;
    char *data;
    size_t len;
};

static void *record(void *arg)
{
    struct tape *t = arg;
    size_t cap = 4 << 20;
    char *raw = malloc(cap);
    size_t len = 0, at = 0;
    t->data = malloc(cap);
    while (true) {
        enum frame_type type;
        uint32_t n;
        while (frame_peek((uint8_t *)raw + at, len - at, &type, &n) == 1) {
            memcpy(t->data + t->len, raw + at + FRAME_HEAD, n);
            t->len += n;
            at += FRAME_HEAD + n;
            if (type == FRAME_TAR_END) {
                free(raw);
                return NULL;
            }
        }
        ssize_t got = read(t->fd, raw + len, cap - len);
        assert_true(got > 0);
        len += (size_t)got;
    }
}

static void put(struct store *store, struct job_file *f, const char *dest, const char *data,
                size_t len)
{
    struct store_info info;
    assert_int_equal(store_put(store, data, len, &info, NULL), 0);
    f->local = (char *)"local";
    f->dest = (char *)dest;
    memcpy(f->sha256, info.sha256, sizeof(f->sha256));
    f->size = len;
}

static void check_entry(struct archive *a, const char *name, const char *data, size_t len,
                        unsigned mode)
{
    struct archive_entry *e;
    assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_OK);
    assert_string_equal(archive_entry_pathname(e), name);
    assert_int_equal(archive_entry_size(e), len);
    assert_int_equal(archive_entry_mode(e), S_IFREG | mode);
    char *got = malloc(len + 1);
    assert_int_equal(archive_read_data(a, got, len + 1), len);
    assert_memory_equal(got, data, len);
    free(got);
}

static void test_copyin(void **state)
{
    char dir[] = "/tmp/milonga-unit-XXXXXX";
    char longest[256], odd[101];
    (void)state;
    assert_non_null(mkdtemp(dir));
    memset(longest, 'n', 255);
    longest[255] = '\0';
    memset(odd, 'o', 100); /* fills the field: no NUL in it */
    odd[100] = '\0';
    char *big = malloc(300000);
    memset(big, 'b', 300000);
    struct store *store;
    struct store_options opt = {.where = dir};
    assert_int_equal(store_open(&opt, &store, NULL), 0);
    struct job_file files[5];
    put(store, &files[0], "Makefile", "all:\n", 5);
    put(store, &files[1], longest, "#!/bin/sh\n", 10);
    put(store, &files[2], odd, "", 0);
    put(store, &files[3], "big", big, 300000);
    put(store, &files[4], "grade", "\177ELF", 4);
    struct job job = {.files = files, .file_ct = 5, .accepted_ms = 1000};
    struct set s;
    set_up(&s);
    struct tape tape = {.fd = s.peer};
    pthread_t t = thread_start(record, &tape);
    assert_int_equal(copyin_prefetch(store, &job, NULL), 0);
    assert_int_equal(copyin_send(&s.p, store, &job, soon(10000), NULL), 0);
    pthread_join(t, NULL);

    struct archive *a = archive_read_new();
    archive_read_support_format_tar(a);
    assert_int_equal(archive_read_open_memory(a, tape.data, tape.len), ARCHIVE_OK);
    check_entry(a, "Makefile", "all:\n", 5, 0644);
    check_entry(a, longest, "#!/bin/sh\n", 10, 0755);
    check_entry(a, odd, "", 0, 0644);
    check_entry(a, "big", big, 300000, 0644);
    check_entry(a, "grade", "\177ELF", 4, 0755);
    struct archive_entry *e;
    assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
    archive_read_free(a);

    memset(files[0].sha256, '0', SHA256_HEX);
    struct error err = ERROR_INIT;
    assert_true(copyin_prefetch(store, &job, &err) < 0);
    assert_non_null(strstr(err.msg, "local"));
    free(tape.data);
    free(big);
    tear_down(&s);
    store_close(store);
    char *const argv[] = {(char *)"rm", (char *)"-rf", dir, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execvp("rm", argv);
        _exit(127);
    }
}

static void test_tar_bounds(void **state)
{
    uint8_t out[4 * TAR_BLOCK];
    char name[TAR_LONGNAME_MAX + 1];
    (void)state;
    assert_int_equal(copyin_tar_header(out, "a", (uint64_t)1 << 33, 0644, 0), -EFBIG);
    memset(name, 'a', TAR_LONGNAME_MAX);
    name[TAR_LONGNAME_MAX] = '\0';
    assert_int_equal(copyin_tar_header(out, name, 0, 0644, 0), -ENAMETOOLONG);
    name[TAR_LONGNAME_MAX - 1] = '\0';
    assert_int_equal(copyin_tar_header(out, name, 0, 0644, 0), 4 * TAR_BLOCK);
    assert_int_equal(copyin_tar_header(out, "a", 0, 0644, -5), TAR_BLOCK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_in_pieces),
        cmocka_unit_test(test_last_words_before_the_end),
        cmocka_unit_test(test_stop_and_nonsense),
        cmocka_unit_test(test_heartbeats),
        cmocka_unit_test(test_both_talk),
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_copyin),
        cmocka_unit_test(test_tar_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
