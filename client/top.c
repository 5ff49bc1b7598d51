/* top: the installation as a table that keeps itself current */

#include "client/client.h"

#include "base/clock.h"
#include "base/mem.h"
#include "client/show.h"
#include "client/table.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define EVERY_MS  1000
#define BAR_WIDTH 20
#define JOBS_MAX  "100"

/* The terminal as it was, to be given back. */
struct screen {
    struct termios before;
    bool raw;
    int signal_fd;
};

static void screen_enter(struct screen *s)
{
    struct termios raw;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->raw = tcgetattr(STDIN_FILENO, &s->before) == 0;
    if (s->raw) {
        raw = s->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    fputs("\033[?1049h\033[?25l", stdout);
}

static void screen_leave(struct screen *s)
{
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    if (s->raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    close(s->signal_fd);
}

/* Waits; false when somebody wants it to end. */
static bool screen_wait(struct screen *s)
{
    struct pollfd fds[] = {{.fd = s->raw ? STDIN_FILENO : -1, .events = POLLIN},
                           {.fd = s->signal_fd, .events = POLLIN}};
    char key = 0;

    if (poll(fds, ARRAY_SIZE(fds), EVERY_MS) <= 0)
        return true;
    if (fds[1].revents != 0)
        return false;
    return read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 4;
}

/* ---- one page ---- */

static void put_bar(FILE *out, int64_t part, int64_t whole)
{
    int n = whole > 0 ? (int)(part * BAR_WIDTH / whole) : 0;

    fputc('[', out);
    for (int i = 0; i < BAR_WIDTH; i++)
        fputc(i < n ? '|' : ' ', out);
    fputc(']', out);
}

static void put_stats(FILE *out, const char *url, const json_t *s)
{
    char age[HUMAN_MAX];
    int64_t oldest = show_number(s, "oldest_queued_ms");

    fprintf(out, "milonga %s   %lld live, %lld queued, %lld to be tried again, oldest %s\n", url,
            (long long)show_number(s, "live"), (long long)show_number(s, "queued"),
            (long long)show_number(s, "delayed"), oldest > 0 ? human_ms(oldest, age) : "-");
    fputs("slots ", out);
    put_bar(out, show_number(s, "busy"), show_number(s, "slots"));
    fprintf(out,
            " %lld/%lld   %lld warm   %lld finished in the last minute   %lld callbacks wait\n\n",
            (long long)show_number(s, "busy"), (long long)show_number(s, "slots"),
            (long long)show_number(s, "machines_idle"), (long long)show_number(s, "finished_60s"),
            (long long)show_number(s, "callbacks_pending"));
}

static void put_vmms(FILE *out, unsigned width, const json_t *answer)
{
    struct table *t = table_new("VMM STATE DRIVER >RUNNING >SLOTS REASON");
    size_t i;
    json_t *v;

    json_array_foreach(json_object_get(answer, "vmms"), i, v)
    {
        table_cell(t, "%s", show_text(v, "name"));
        table_cell(t, "%s%s", show_text(v, "state"), show_flag(v, "drain") ? ", drains" : "");
        table_cell(t, "%s", show_text(v, "driver"));
        table_cell(t, "%lld", (long long)show_number(v, "running"));
        table_cell(t, "%lld", (long long)show_number(v, "slots"));
        table_cell(t, "%s", show_text(v, "reason"));
    }
    table_print(t, out, width, "no vmm has registered");
    table_free(t);
    fputc('\n', out);
}

static void put_jobs(FILE *out, unsigned width, const json_t *answer)
{
    struct table *t = table_new(">JOB STATE >SINCE VMM IMAGE NAME");
    char since[HUMAN_MAX];
    size_t i;
    json_t *j;

    json_array_foreach(json_object_get(answer, "jobs"), i, j)
    {
        table_cell(t, "%lld", (long long)show_number(j, "id"));
        table_cell(t, "%s", show_flag(j, "cancelling") ? "cancelling" : show_text(j, "state"));
        table_cell(t, "%s", human_ago(show_number(j, "state_since_ms"), since));
        table_cell(t, "%s", show_text(j, "vmm"));
        table_cell(t, "%s", show_text(j, "image"));
        table_cell(t, "%s", show_text(j, "name"));
    }
    table_print(t, out, width, "no live jobs");
    table_free(t);
}

static int page(struct rest *r, unsigned width, FILE *out, struct error *err)
{
    json_t *stats = NULL, *vmms = NULL, *jobs = NULL;
    int rc;

    if ((rc = rest_json(r, "GET", "/v1/stats", NULL, &stats, NULL, err)) == 0 &&
        (rc = rest_json(r, "GET", "/v1/vmms", NULL, &vmms, NULL, err)) == 0 &&
        (rc = rest_json(r, "GET", "/v1/jobs?state=live&limit=" JOBS_MAX, NULL, &jobs, NULL, err)) ==
            0) {
        put_stats(out, rest_url(r), stats);
        put_vmms(out, width, vmms);
        put_jobs(out, width, jobs);
    }
    json_decref(stats);
    json_decref(vmms);
    json_decref(jobs);
    return rc;
}

/* As many lines as there is room for, in place of what is there. */
static void draw(const char *text)
{
    struct winsize size = {.ws_row = 24};

    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    fputs("\033[H", stdout);
    for (unsigned row = 1; *text != '\0' && row < size.ws_row; row++) {
        size_t len = strcspn(text, "\n");

        printf("%.*s\033[K\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
    fputs("\033[Jq ends", stdout);
    fflush(stdout);
}

/* An api that is away for a moment is told in the page. */
static void live(struct rest *r)
{
    struct screen screen;

    screen_enter(&screen);
    do {
        struct error err = ERROR_INIT;
        cleanup_free char *text = NULL;
        size_t len;
        FILE *out = open_memstream(&text, &len);

        if (out == NULL)
            abort(); /* out of memory */
        if (page(r, terminal_width(), out, &err) < 0)
            fprintf(out, "%s\n", err.msg);
        fclose(out);
        draw(text);
    } while (screen_wait(&screen));
    screen_leave(&screen);
}

int cmd_top(struct client *c, int argc, char **argv)
{
    bool once = false;
    const struct arg args[] = {{"--once", NULL, &once}};
    struct error err = ERROR_INIT;
    struct rest *r;

    if (args_take(argc, argv, args, ARRAY_SIZE(args)) != 0)
        return EXIT_USE;
    r = client_rest(c, &err);
    if (r == NULL)
        return client_fail(&err);
    if (!once && isatty(STDOUT_FILENO)) {
        live(r);
        return 0;
    }
    return page(r, terminal_width(), stdout, &err) < 0 ? client_fail(&err) : 0;
}
