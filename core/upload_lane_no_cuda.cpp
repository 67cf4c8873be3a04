#include "core/error.h"
#include "core/tensor_upload.h"

namespace matvlm {

std::unique_ptr<UploadLane> make_cuda_upload_lane(Context& /*ctx*/, int64_t /*bytes*/) {
  fail("[upload] this build has no CUDA");
}

}  // namespace matvlm
