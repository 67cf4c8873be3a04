// The communicator of device memory over NCCL, on a stream of its own. Errors that NCCL finds in the background are
// looked for wherever the host waits, so that a dead peer is an Error and not a hang.
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "core/comm.h"
#include "core/cuda_context.h"
#include "core/error.h"

namespace matvlm {
namespace {

constexpr std::chrono::microseconds kPoll{50};

void check_nccl(ncclResult_t result, const char* call, ncclComm_t comm = nullptr) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* detail = ncclGetLastError(comm);
  std::string line = cat("[nccl] ", call, ": ", ncclGetErrorString(result));
  if (detail != nullptr && detail[0] != '\0') line += cat(" (", detail, ")");
  for (char& c : line) {
    if (c == '\n') c = ' ';
  }
  throw Error(line);
}

ncclDataType_t nccl_type(CommType type) {
  switch (type) {
    case CommType::f32:
      return ncclFloat32;
    case CommType::f64:
      return ncclFloat64;
    case CommType::i64:
      return ncclInt64;
    case CommType::u8:
      return ncclUint8;
  }
  fail("[nccl] found an unknown element type");
}

ncclRedOp_t nccl_op(CommOp op) { return op == CommOp::sum ? ncclSum : ncclMax; }

class Event {
 public:
  Event() { MATVLM_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

class NcclComm final : public Comm {
 public:
  NcclComm(Comm& host, int device)
      : Comm(host.rank(), host.size()), host_(host), device_(device), exceptions_at_start_(std::uncaught_exceptions()) {
    check(!host.on_gpu(), "[nccl] found a communicator of device memory to start from, expected one of host memory");
    MATVLM_CUDA_CHECK(cudaSetDevice(device));
    ncclUniqueId id{};
    if (rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host.broadcast(std::span<uint8_t>(reinterpret_cast<uint8_t*>(&id), sizeof(id)), 0);
    // As the model's work: behind that a sum would not begin before backward's end.
    stream_ = make_stream(StreamPriority::first);
    ncclComm_t comm = nullptr;
    const ncclResult_t result = ncclCommInitRank(&comm, size(), id, rank());
    if (result != ncclSuccess) {
      cudaStreamDestroy(stream_);
      check_nccl(result, "ncclCommInitRank");
    }
    comm_ = comm;
  }

  ~NcclComm() override {
    cudaSetDevice(device_);
    ncclComm_t comm = comm_.exchange(nullptr);
    // Destroy waits for the collectives under way, which never end when an error has taken a rank out.
    const bool orderly = std::uncaught_exceptions() <= exceptions_at_start_ && comm != nullptr && drain(comm);
    if (comm != nullptr) orderly ? ncclCommDestroy(comm) : ncclCommAbort(comm);
    cudaStreamDestroy(stream_);
  }

  bool on_gpu() const override { return true; }

  void barrier() override {
    finish(nullptr);
    host_.barrier();
  }

  void abort(int code) override {
    if (ncclComm_t comm = comm_.exchange(nullptr)) ncclCommAbort(comm);
    host_.abort(code);
  }

  std::string async_error() override {
    ncclComm_t comm = comm_;
    if (comm == nullptr) return "[nccl] the communicator was aborted";
    return error_of(comm);
  }

  // Makes `stream` wait for `event`, or the host when `stream` is null.
  void wait_for(const Event& event, void* stream) {
    if (stream != nullptr) {
      MATVLM_CUDA_CHECK(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event.get(), 0));
      return;
    }
    while (true) {
      const cudaError_t state = cudaEventQuery(event.get());
      if (state == cudaSuccess) return;
      if (state != cudaErrorNotReady) MATVLM_CUDA_CHECK(state);
      cudaGetLastError();  // "not ready" must not be taken for the error of a later launch
      const std::string error = async_error();
      if (!error.empty()) throw Error(error);
      std::this_thread::sleep_for(kPoll);
    }
  }

 protected:
  void run_all_reduce(CommBuffer values, CommOp op, void* stream) override {
    begin(stream);
    all_reduce(values, op);
    finish(stream);
  }

  std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp op, void* stream) override;

  void run_reduce_scatter(CommInput all, CommBuffer own, void* stream) override {
    begin(stream);
    check_nccl(ncclReduceScatter(all.data, own.data, static_cast<size_t>(own.count), nccl_type(own.type), ncclSum,
                                 comm(), stream_),
               "ncclReduceScatter", comm_);
    finish(stream);
  }

  void run_all_gather(CommInput own, CommBuffer all, void* stream) override {
    begin(stream);
    check_nccl(ncclAllGather(own.data, all.data, static_cast<size_t>(own.count), nccl_type(own.type), comm(), stream_),
               "ncclAllGather", comm_);
    finish(stream);
  }

  void run_broadcast(CommBuffer values, int root, void* stream) override {
    begin(stream);
    check_nccl(ncclBroadcast(values.data, values.data, static_cast<size_t>(values.count), nccl_type(values.type), root,
                             comm(), stream_),
               "ncclBroadcast", comm_);
    finish(stream);
  }

 private:
  static std::string error_of(ncclComm_t comm) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    if (asked != ncclSuccess) state = asked;
    if (state == ncclSuccess || state == ncclInProgress) return "";
    return cat("[nccl] a collective failed in the background: ", ncclGetErrorString(state));
  }

  ncclComm_t comm() const {
    ncclComm_t comm = comm_;
    check(comm != nullptr, "[nccl] found a collective after abort, expected none");
    return comm;
  }

  // The collectives that follow come after the work queued on `stream`.
  void begin(void* stream) {
    MATVLM_CUDA_CHECK(cudaSetDevice(device_));
    if (stream == nullptr) return;
    const Event ready;
    MATVLM_CUDA_CHECK(cudaEventRecord(ready.get(), static_cast<cudaStream_t>(stream)));
    MATVLM_CUDA_CHECK(cudaStreamWaitEvent(stream_, ready.get(), 0));
  }

  void finish(void* stream) {
    const Event done;
    MATVLM_CUDA_CHECK(cudaEventRecord(done.get(), stream_));
    wait_for(done, stream);
  }

  void all_reduce(CommBuffer values, CommOp op) {
    check_nccl(ncclAllReduce(values.data, values.data, static_cast<size_t>(values.count), nccl_type(values.type),
                             nccl_op(op), comm(), stream_),
               "ncclAllReduce", comm_);
  }

  // Waits for the stream; false when it cannot become empty.
  bool drain(ncclComm_t comm) const {
    while (true) {
      const cudaError_t state = cudaStreamQuery(stream_);
      if (state == cudaSuccess) return true;
      cudaGetLastError();
      if (state != cudaErrorNotReady || !error_of(comm).empty()) return false;
      std::this_thread::sleep_for(kPoll);
    }
  }

  Comm& host_;
  int device_;
  int exceptions_at_start_;
  cudaStream_t stream_ = nullptr;
  std::atomic<ncclComm_t> comm_{nullptr};  // abort() takes it from another thread

  friend class NcclRequest;
};

class NcclRequest final : public CommRequest {
 public:
  explicit NcclRequest(NcclComm& comm) : comm_(comm) { MATVLM_CUDA_CHECK(cudaEventRecord(done_.get(), comm.stream_)); }
  ~NcclRequest() override {
    try {
      if (!waited_) wait(nullptr);
    } catch (const std::exception&) {  // wait() is where errors are told
    }
  }
  void wait(void* stream) override {
    waited_ = true;
    comm_.wait_for(done_, stream);
  }

 private:
  NcclComm& comm_;
  Event done_;
  bool waited_ = false;
};

std::unique_ptr<CommRequest> NcclComm::start_all_reduce(CommBuffer values, CommOp op, void* stream) {
  begin(stream);
  all_reduce(values, op);
  return std::make_unique<NcclRequest>(*this);
}

}  // namespace

bool have_nccl() { return true; }

std::unique_ptr<Comm> make_nccl_comm(Comm& host, int device) { return std::make_unique<NcclComm>(host, device); }

}  // namespace matvlm
