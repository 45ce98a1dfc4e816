/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the module's code lies. */
#ifndef _TCP_SPLICE_SECTIONS_H
#define _TCP_SPLICE_SECTIONS_H

#include <linux/compiler_attributes.h>

/*
 * What every connection runs that is offered, and what those run besides that are spliced, each in a section of its own: scattered over the
 * module it would take more pages, and a connection that comes and goes needs each of them once or twice. Not ".text.something",
 * which scripts/module.lds puts together file by file. In Rust, #[unsafe(link_section)] says the same.
 */
#define __ts_offered __section(".text..ts_offered")
#define __ts_spliced __section(".text..ts_spliced")

#endif
