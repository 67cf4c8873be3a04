// Recording by stream capture. The mode is relaxed: the allocator may have to ask the device for memory meanwhile, and
// other threads' calls are none of its business.
#include "core/allocator.h"
#include "core/cuda_context.h"
#include "core/device_graph.h"

namespace matvlm {
namespace {

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(cudaStream_t stream, cudaGraph_t graph) : stream_(stream) {
    size_t nodes = 0;
    MATVLM_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    nodes_ = static_cast<int64_t>(nodes);
    MATVLM_CUDA_CHECK(cudaGraphInstantiate(&exec_, graph, 0));
  }
  ~CudaGraph() override {
    if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
  }
  void launch() override { MATVLM_CUDA_CHECK(cudaGraphLaunch(exec_, stream_)); }
  int64_t nodes() const override { return nodes_; }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t exec_ = nullptr;
  int64_t nodes_ = 0;
};

// From its construction to end() or its destruction the stream records.
class Recording {
 public:
  explicit Recording(CudaContext& cuda) : cuda_(cuda), kept_(cuda.allocator()->keep(Allocator::Keep::everything)) {
    const cudaError_t begun = cudaStreamBeginCapture(cuda.stream(), cudaStreamCaptureModeRelaxed);
    if (begun == cudaSuccess) {
      cuda_.recording = true;
      return;
    }
    cuda_.allocator()->keep(kept_);
    fail("[device_graph] cudaStreamBeginCapture: ", cudaGetErrorString(begun));
  }
  ~Recording() {
    if (cuda_.recording) stop();
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  cudaGraph_t end() {
    const cudaError_t ended = stop();
    check(ended == cudaSuccess && graph_ != nullptr,
          "[device_graph] cudaStreamEndCapture: ", cudaGetErrorString(ended));
    return graph_;
  }

 private:
  cudaError_t stop() {
    cuda_.recording = false;
    const cudaError_t ended = cudaStreamEndCapture(cuda_.stream(), &graph_);
    cudaGetLastError();  // an error of what was recorded is no error of what comes next
    cuda_.allocator()->keep(kept_);
    return ended;
  }
  CudaContext& cuda_;
  Allocator::Keep kept_;
  cudaGraph_t graph_ = nullptr;
};

}  // namespace

std::unique_ptr<DeviceGraph> record_cuda(Context& ctx, const std::function<void()>& work) {
  CudaContext& cuda = *ctx.cuda();
  check(!cuda.recording, "[device_graph] a recording inside another");
  Recording recording(cuda);
  work();
  return std::make_unique<CudaGraph>(cuda.stream(), recording.end());
}

}  // namespace matvlm
