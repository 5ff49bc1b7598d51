#ifndef MILONGA_VMM_BUILDS_H
#define MILONGA_VMM_BUILDS_H

/* Image builds are wishes (hash `build`: image name -> state, archive, text). A thread of its own
 * takes each archive from the store into the backend and reports (script build_done). Every vmm
 * takes each in once, whoever is first to report. */

#include "vmm.h"

struct builds *builds_new(struct vmm *v);
void builds_start(struct builds *b);
void builds_stop(struct builds *b); /* waits for an import that is under way */
void builds_free(struct builds *b);

/* Look at the wishes. Any thread; never blocks. */
void builds_poke(struct builds *b);

#endif
