#ifndef MILONGA_DISPATCHER_SURVEY_H
#define MILONGA_DISPATCHER_SURVEY_H

/* Finds every file of the store that something in Redis names: files of labs, of results, of live
 * jobs, feedback of dead ones (a callback may wait for it), builds. In slices, for Redis serves
 * others meanwhile; so it is no picture of one moment. A job takes its files from a lab, therefore
 * labs come first: what leaves a lab while we look was either seen there, or is seen in the job.
 * What is named anew meanwhile was written or renewed in the store just before, which its
 * collector's grace covers. */

#include "base/err.h"
#include "services/dispatcher/bell.h"
#include "services/dispatcher/keepset.h"

struct dispatcher;

/* Adds to *ret. 0; negative when anything could not be read: then nothing may be concluded. Ends
 * early with -ECANCELED when `bell` is quitting. */
int survey_run(struct dispatcher *d, struct bell *bell, struct keepset *ret, struct error *err);

#endif
