#include "wire/feedback.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Takes back what was appended when a later piece found no room. */
static int settle(struct buf *out, size_t before, int r)
{
    if (r == 0)
        return 0;
    out->len = before;
    if (out->data)
        out->data[before] = '\0';
    return -ENOSPC;
}

static void one_line(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = ' ';
}

int feedback_line(struct buf *out, int64_t at_ms, const char *text)
{
    cleanup_free char *clean = xstrdup(text);
    char at[32];

    one_line(clean);
    clock_ctime_local(at_ms, at, sizeof(at));
    return buf_printf(out, "Autograder [%s]: %s\n", at, clean);
}

int feedback_received(struct buf *out, const char *job_name, const char *id, int64_t received_ms)
{
    cleanup_free char *text = xasprintf("Received job %s:%s", job_name, id);

    return feedback_line(out, received_ms, text);
}

int feedback_output_follows(struct buf *out, int64_t at_ms)
{
    size_t before = out->len;
    int r = feedback_line(out, at_ms, "Here is the output from the autograder:");

    if (r == 0)
        r = buf_appends(out, "---\n");
    return settle(out, before, r);
}

int feedback_render(struct buf *out, const char *job_name, const char *id, int64_t received_ms,
                    int64_t finished_ms, const char *message, bool output_follows)
{
    size_t before = out->len;
    int r = feedback_received(out, job_name, id, received_ms);

    if (r == 0)
        r = feedback_line(out, finished_ms, message);
    if (r == 0 && output_follows)
        r = feedback_output_follows(out, finished_ms);
    return settle(out, before, r);
}

static void status_text(char out[16], int status)
{
    if (status == FEEDBACK_NO_STATUS)
        snprintf(out, 16, "None");
    else
        snprintf(out, 16, "%d", status);
}

int feedback_gave_up(struct buf *out, int64_t at_ms, unsigned tries,
                     const struct feedback_steps *steps, const char *why)
{
    size_t before = out->len;
    char wait[16], in[16], run[16], back[16];

    status_text(wait, steps->wait_vm);
    status_text(in, steps->copy_in);
    status_text(run, steps->run_job);
    status_text(back, steps->copy_out);
    cleanup_free char *first =
        xasprintf("Internal error: Unable to complete job after %u tries. Pleae resubmit", tries);
    cleanup_free char *second =
        xasprintf("Job status: waitVM=%s copyIn=%s runJob=%s copyOut=%s", wait, in, run, back);
    int r = feedback_line(out, at_ms, first);

    if (r == 0)
        r = feedback_line(out, at_ms, second);
    if (r == 0 && why) {
        cleanup_free char *third = xasprintf("Internal error: %s", why);
        r = feedback_line(out, at_ms, third);
    }
    return settle(out, before, r);
}
