/* Questions that one script answers with a tree of texts, and small orders of the same form. */

#include "services/api/core_private.h"

#include <string.h>

static const struct script scripts[ASK_QUESTIONS] = {
    [ASK_LABS] =
        {
            "labs",
#include "api/lua/labs.inc"
        },
    [ASK_LAB] =
        {
            "lab",
#include "api/lua/lab.inc"
        },
    [ASK_LAB_DROP] =
        {
            "lab_drop",
#include "api/lua/lab_drop.inc"
        },
    [ASK_FILE_DROP] =
        {
            "file_drop",
#include "api/lua/file_drop.inc"
        },
    [ASK_FILE] =
        {
            "lab_file",
#include "api/lua/lab_file.inc"
        },
    [ASK_VMMS] =
        {
            "vmms",
#include "api/lua/vmms.inc"
        },
    [ASK_DRAIN] =
        {
            "drain",
#include "api/lua/drain.inc"
        },
    [ASK_POOLS] =
        {
            "pools_wished",
#include "api/lua/pools_wished.inc"
        },
    [ASK_UNWISH] =
        {
            "unwish",
#include "api/lua/unwish.inc"
        },
    [ASK_IMAGES] =
        {
            "images",
#include "api/lua/images.inc"
        },
    [ASK_IMAGE_DROP] =
        {
            "image_drop",
#include "api/lua/image_drop.inc"
        },
    [ASK_WHY] =
        {
            "why",
#include "api/lua/why.inc"
        },
    [ASK_STATS] =
        {
            "stats",
#include "api/lua/stats.inc"
        },
    [ASK_READY] =
        {
            "ready",
#include "api/lua/ready.inc"
        },
    [ASK_CALLBACKS] =
        {
            "callbacks",
#include "api/lua/callbacks.inc"
        },
    [ASK_CALLBACK_RETRY] =
        {
            "callback_retry",
#include "api/lua/callback_retry.inc"
        },
    [ASK_OUTPUT] =
        {
            "output_at",
#include "api/lua/output_at.inc"
        },
    [ASK_EVENTS] =
        {
            "events",
#include "api/lua/events.inc"
        },
};

static void answered(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_answer a = {.status = CORE_OK, .tree = r, .why = status};

    if (!status)
        core_fail(op, why);
    else if (strcmp(status, "none") == 0)
        core_end(op, &(struct core_answer){.status = CORE_NOT_FOUND});
    else {
        if (strcmp(status, "conflict") == 0) {
            a.status = CORE_CONFLICT;
            a.why = core_text(r, 1);
        }
        core_end(op, &a);
    }
    free(op);
}

void core_ask(struct core *c, enum core_question q, int argc, const char *const *argv,
              core_done_fn *done, void *arg)
{
    struct core_op *op = xcalloc(1, sizeof(*op));

    *op = (struct core_op){.core = c, .done = done, .arg = arg};
    core_script(op, &scripts[q], argc, argv, NULL, answered);
}
