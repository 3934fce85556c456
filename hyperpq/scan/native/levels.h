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
    {"avx512vbmi", avx512vbmi::runs_here, avx512vbmi::kFine, avx512vbmi::magnitude, avx512vbmi::halve, avx512vbmi::quantize, avx512vbmi::at_most,
     avx512vbmi::survivors, nullptr, avx512vbmi::stream, avx512vbmi::values, avx512vbmi::largest,
     avx512vbmi::products, avx512vbmi::squares},
    {"avx512bw", avx512bw::runs_here, avx512bw::kFine, avx512bw::magnitude, avx512bw::halve, avx512bw::quantize, avx512bw::at_most,
     avx512bw::survivors, avx512bw::coarse_survivors, avx512bw::stream, avx512bw::values, avx512bw::largest,
     avx512bw::products, avx512bw::squares},
    {"avx2", avx2::runs_here, avx2::kFine, avx2::magnitude, avx2::halve, avx2::quantize, avx2::at_most,
     avx2::survivors, avx2::coarse_survivors, avx2::stream, avx2::values, avx2::largest,
     avx2::products, avx2::squares},
#elif defined(__aarch64__)
    {"neon", neon::runs_here, neon::kFine, neon::magnitude, neon::halve, neon::quantize, neon::at_most,
     neon::survivors, neon::coarse_survivors, neon::stream, neon::values, neon::largest,
     neon::products, neon::squares},
#endif
    {"portable", portable::runs_here, portable::kFine, portable::magnitude, portable::halve, portable::quantize, portable::at_most,
     portable::survivors, nullptr, portable::stream, portable::values, portable::largest,
     portable::products, portable::squares},
};

}  // namespace hyperpq
