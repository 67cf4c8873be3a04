// Sizes of the way that host values take to a GPU (context_cuda.cpp), for whoever counts its memory.
#pragma once

#include <cstdint>

namespace matvlm {

// Values from so many bytes on travel beside the work that is queued on the device, through a buffer there of
// kGpuUploadBytes, which every GPU context has from the first such values on.
inline constexpr int64_t kLeastUploadAside = 256LL << 10;
inline constexpr int64_t kGpuUploadBytes = 16LL << 20;

}  // namespace matvlm
