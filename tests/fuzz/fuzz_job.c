/* What is read as a job is written and read again as the same job. */

#include "wire/job.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cleanup_job struct job *job = NULL, *again = NULL;
    cleanup_buf struct buf b = BUF_INIT(2 * JOB_BODY_MAX), second = BUF_INIT(2 * JOB_BODY_MAX);
    struct error err = ERROR_INIT;
    struct job_token token;

    job_token_parse((const char *)data, size, &token);
    if (job_decode(data, size, &job, &err) < 0)
        return 0;
    if (job_encode(job, &b) < 0) /* absent keys are written, so it may have grown over the bound */
        return 0;
    if (job_decode(b.data, b.len, &again, &err) < 0 || job_encode(again, &second) < 0 ||
        b.len != second.len || memcmp(b.data, second.data, b.len) != 0)
        abort();
    return 0;
}
