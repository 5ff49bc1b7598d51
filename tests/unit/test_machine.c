#include "base/clock.h"
#include "base/mem.h"
#include "services/vmm/drivers/docker_http.h"
#include "services/vmm/machine.h"
#include "wire/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- names and shapes ---- */

static void name_is_what_an_engine_takes(void **state)
{
    (void)state;
    char name[160];
    char image[256];

    machine_name(name, "local", 1000, "autograding_image");
    assert_string_equal(name, "local-1000-autograding_image");
    machine_name(name, "p", 9999, "reg:5000/a/b:1.2");
    assert_string_equal(name, "p-9999-reg_5000_a_b_1.2");
    machine_name(name, "p", 1, "rhel.img");
    assert_string_equal(name, "p-1-rhel.img");
    machine_name(name, ".p", 1, "a\xc3\xa9 b");
    assert_string_equal(name, "xp-1-a___b");
    memset(image, 'i', 255);
    image[255] = '\0';
    machine_name(name, "p", 1000, image);
    assert_int_equal(strlen(name), 159);
}

static void shapes_are_equal_by_what_runs(void **state)
{
    (void)state;
    struct machine_shape a = {
        .image = (char *)"img", .digest = (char *)"sha256:1", .memory_mb = 64};
    struct machine_shape b;

    machine_shape_copy(&b, &a);
    assert_ptr_not_equal(a.image, b.image);
    assert_true(machine_shape_equal(&a, &b));
    free(b.image);
    b.image = xstrdup("img:latest");
    assert_true(machine_shape_equal(&a, &b));
    b.network = true;
    assert_false(machine_shape_equal(&a, &b));
    b.network = false;
    b.disk_bytes = 1;
    assert_false(machine_shape_equal(&a, &b));
    b.disk_bytes = 0;
    free(b.digest);
    b.digest = NULL;
    assert_false(machine_shape_equal(&a, &b));
    machine_shape_done(&b);
    assert_null(b.image);
}

/* ---- docker's framing of an attached stream ---- */

static const uint8_t attached[] = "\1\0\0\0\0\0\0\5hello"
                                  "\2\0\0\0\0\0\0\4oops"
                                  "\1\0\0\0\0\0\0\0"
                                  "\1\0\0\0\0\0\0\6 world";

static void strip_takes_any_cut(void **state)
{
    (void)state;
    size_t all = sizeof(attached) - 1;

    for (size_t cut = 1; cut <= all; cut++) {
        struct engine_demux d = {0};
        char got[64];
        size_t len = 0;
        for (size_t at = 0; at < all; at += cut) {
            uint8_t piece[64];
            size_t n = all - at < cut ? all - at : cut;
            memcpy(piece, attached + at, n);
            ssize_t out = engine_strip(&d, piece, n);
            assert_true(out >= 0 && (size_t)out <= n);
            memcpy(got + len, piece, (size_t)out);
            len += (size_t)out;
        }
        got[len] = '\0';
        assert_string_equal(got, "hello world");
    }
}

static void strip_refuses_what_is_no_stream(void **state)
{
    (void)state;
    struct engine_demux d = {0}, e = {0};
    uint8_t third[] = "\3\0\0\0\0\0\0\5hello", text[] = "plain text";

    assert_int_equal(engine_strip(&d, third, sizeof(third) - 1), -EPROTO);
    assert_int_equal(engine_strip(&e, text, sizeof(text) - 1), -EPROTO);
}

static void engine_urls(void **state)
{
    (void)state;
    struct engine *e = NULL;
    struct error err = ERROR_INIT;

    assert_int_equal(engine_new("tcp://h:2375", &e, &err), -EPROTONOSUPPORT);
    assert_int_equal(err.class, ERR_PERMANENT);
    assert_null(e);
    assert_int_equal(engine_new("unix:///nowhere/at/all.sock", &e, &err), 0);
    assert_true(engine_ping(e, clock_mono_ms() + 2000, &err) < 0);
    assert_int_equal(err.class, ERR_TEMPORARY);
    engine_free(e);
}

/* ---- the null driver ---- */

struct talk {
    struct backend *b;
    struct machine *m;
    char in[200000];
    size_t len;
    char output[150000];
    size_t output_len;
};

static void send_frame(struct talk *t, enum frame_type type, const char *text)
{
    uint8_t head[FRAME_HEAD];

    frame_head(head, type, (uint32_t)strlen(text));
    assert_int_equal(write_all(t->m->in_fd, head, sizeof(head)), 0);
    assert_int_equal(write_all(t->m->in_fd, text, strlen(text)), 0);
}

/* The next frame's type, its text in *ret; 0 at the end of the machine. */
static int next_frame(struct talk *t, char ret[1000])
{
    enum frame_type type;
    uint32_t len;

    for (;;) {
        if (frame_peek((uint8_t *)t->in, t->len, &type, &len) == 1) {
            if (type == FRAME_OUTPUT) {
                memcpy(t->output + t->output_len, t->in + FRAME_HEAD, len);
                t->output_len += len;
            } else {
                snprintf(ret, 1000, "%.*s", (int)len, t->in + FRAME_HEAD);
            }
            t->len -= FRAME_HEAD + len;
            memmove(t->in, t->in + FRAME_HEAD + len, t->len);
            if (type == FRAME_OUTPUT)
                continue;
            return (int)type;
        }
        struct pollfd p = {.fd = t->m->out_fd, .events = POLLIN};
        assert_true(poll(&p, 1, 5000) > 0);
        ssize_t n = t->m->driver->read(t->m, t->in + t->len, sizeof(t->in) - t->len);
        if (n == 0)
            return 0;
        if (n != -EAGAIN) {
            assert_true(n > 0);
            t->len += (size_t)n;
        }
    }
}

static void begin(struct talk *t)
{
    struct machine_spec spec = {.id = 1000};

    memset(t, 0, sizeof(*t));
    spec.shape.image = (char *)"null";
    spec.shape.digest = (char *)"null:1";
    machine_name(spec.name, "unit", 1000, "null");
    assert_int_equal(driver_null.open(NULL, &t->b, NULL), 0);
    assert_int_equal(driver_null.initialize(t->b, &spec, CLOCK_NEVER, -1, &t->m, NULL), 0);
}

static void end(struct talk *t)
{
    driver_null.destroy(t->m, clock_mono_ms() + 1000);
    driver_null.close(t->b);
}

static void load(struct talk *t, const char *header, const char *input)
{
    char text[1000];

    begin(t);
    assert_int_equal(next_frame(t, text), FRAME_READY);
    send_frame(t, FRAME_HEADER, header);
    send_frame(t, FRAME_TAR, input);
    send_frame(t, FRAME_TAR_END, "");
}

static void go(struct talk *t, const char *header, const char *input)
{
    char text[1000];

    load(t, header, input);
    assert_int_equal(next_frame(t, text), FRAME_LOADED);
    send_frame(t, FRAME_GO, "");
    assert_int_equal(next_frame(t, text), FRAME_STARTED);
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no %s in %s", line, text);
}

static void null_greets(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];

    go(&t, "output_bytes=1000\n", "all:\n\techo\n");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    has(text, "outcome=exited\nstatus=0\n");
    assert_int_equal(next_frame(&t, text), 0);
    t.output[t.output_len] = '\0';
    assert_string_equal(t.output, "Hello from null\n");
    end(&t);
}

static void null_keeps_head_and_tail(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];

    go(&t, "output_bytes=1000\n", "# null: output=100000 outcome=signaled status=11\n\n");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    has(text, "outcome=signaled\nstatus=11\noutput_total=100000\nhead=500\nelided=99000\n");
    assert_int_equal(t.output_len, 1000);
    end(&t);
    go(&t, "output_bytes=200000\n", "# null: output=130000\n");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    has(text, "elided=0\n");
    assert_int_equal(t.output_len, 130000);
    end(&t);
}

static void null_echoes_its_token(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];

    go(&t, "job=17\ntoken=3.2\n", "# null: echo=1\n");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    t.output[t.output_len] = '\0';
    assert_string_equal(t.output, "job 17 token 3.2\n");
    end(&t);
}

static void null_heeds_clock_cancel_and_lease(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];

    go(&t, "timeout_ms=30\n", "# null: sleep_ms=60000\n");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    has(text, "outcome=timed_out\n");
    end(&t);
    go(&t, "timeout_ms=60000\n", "# null: sleep_ms=60000\n");
    send_frame(&t, FRAME_HEARTBEAT, "");
    send_frame(&t, FRAME_CANCEL, "");
    assert_int_equal(next_frame(&t, text), FRAME_FINAL);
    has(text, "outcome=cancelled\n");
    end(&t);
    go(&t, "lease_ms=30\n", "# null: sleep_ms=60000\n");
    assert_int_equal(next_frame(&t, text), 0);
    end(&t);
}

static void null_fails_as_it_is_told(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];

    load(&t, "", "# null: die=loading\n");
    assert_int_equal(next_frame(&t, text), 0);
    end(&t);
    load(&t, "", "# null: refuse=1\n");
    assert_int_equal(next_frame(&t, text), FRAME_ERROR);
    end(&t);
    go(&t, "", "# null: output=5 die=running\n");
    assert_int_equal(next_frame(&t, text), 0);
    assert_int_equal(t.output_len, 5);
    end(&t);
}

static void count(void *arg, const char *name)
{
    assert_string_equal(name, "unit-1000-null");
    ++*(int *)arg;
}

static void null_is_destroyed_whatever_it_does(void **state)
{
    (void)state;
    static struct talk t;
    char text[1000];
    int n = 0;

    begin(&t); /* warm, READY not read */
    assert_int_equal(driver_null.list(t.b, count, &n, NULL), 0);
    assert_int_equal(n, 1);
    end(&t);
    /* Blocked on output that nobody reads. */
    load(&t, "", "# null: output=100000000\n");
    assert_int_equal(next_frame(&t, text), FRAME_LOADED);
    send_frame(&t, FRAME_GO, "");
    end(&t);
    go(&t, "", "# null: sleep_ms=60000\n");
    assert_int_equal(driver_null.reap(t.b, "unit-1000-null", NULL), 0);
    assert_int_equal(next_frame(&t, text), 0);
    end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(name_is_what_an_engine_takes),
        cmocka_unit_test(shapes_are_equal_by_what_runs),
        cmocka_unit_test(strip_takes_any_cut),
        cmocka_unit_test(strip_refuses_what_is_no_stream),
        cmocka_unit_test(engine_urls),
        cmocka_unit_test(null_greets),
        cmocka_unit_test(null_keeps_head_and_tail),
        cmocka_unit_test(null_echoes_its_token),
        cmocka_unit_test(null_heeds_clock_cancel_and_lease),
        cmocka_unit_test(null_fails_as_it_is_told),
        cmocka_unit_test(null_is_destroyed_whatever_it_does),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
