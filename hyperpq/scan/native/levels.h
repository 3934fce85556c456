// The table of levels, from which the scan chooses at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "level.h"
#include "portable.h"
#if defined(__x86_64__)
#include "avx2.h"
#include "avx512bw.h"
#include "avx512vbmi.h"
#elif defined(__aarch64__)
#include "neon.h"
#endif

namespace hyperpq {

// In order of preference, the fastest first.
inline constexpr Level kLevels[] = {
#if defined(__x86_64__)
    {"avx512vbmi", avx512vbmi::runs_here, avx512vbmi::lift, avx512vbmi::quantize,
     avx512vbmi::survivors, avx512vbmi::stream, avx512vbmi::values, avx512vbmi::largest,
     avx512vbmi::products, avx512vbmi::squares},
    {"avx512bw", avx512bw::runs_here, avx512bw::lift, avx512bw::quantize, avx512bw::survivors,
     avx512bw::stream, avx512bw::values, avx512bw::largest, avx512bw::products, avx512bw::squares},
    {"avx2", avx2::runs_here, avx2::lift, avx2::quantize, avx2::survivors, avx2::stream,
     avx2::values, avx2::largest, avx2::products, avx2::squares},
#elif defined(__aarch64__)
    {"neon", neon::runs_here, neon::lift, neon::quantize, neon::survivors, neon::stream,
     neon::values, neon::largest, neon::products, neon::squares},
#endif
    {"portable", portable::runs_here, portable::lift, portable::quantize, portable::survivors,
     portable::stream, portable::values, portable::largest, portable::products, portable::squares},
};

}  // namespace hyperpq
