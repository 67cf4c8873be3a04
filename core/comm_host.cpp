// Call descriptions, ordered reductions and the request thread of host communicators.
#include "core/comm_host.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "core/error.h"

namespace matvlm {
namespace {

constexpr int64_t kBlock = 2048;  // elements; accumulator and inputs of one block stay in the first-level cache

std::string call_text(const CommCall& call) {
  constexpr const char* kKinds[] = {"barrier",    "all_reduce_sum", "all_reduce_max", "reduce_scatter_sum",
                                    "all_gather", "broadcast"};
  constexpr const char* kTypes[] = {"float", "double", "int64", "uint8"};
  const auto kind = static_cast<size_t>(call.kind);
  const auto type = static_cast<size_t>(call.type);
  if (kind >= std::size(kKinds) || type >= std::size(kTypes)) return "an unknown call";
  if (call.kind == CommKind::barrier) return kKinds[kind];
  const std::string root = call.kind == CommKind::broadcast ? cat(" from rank ", call.root) : "";
  return cat(kKinds[kind], " of ", call.count, " ", kTypes[type], root);
}

template <class T>
T larger(T a, T b) {
  return b > a || b != b ? b : a;  // NaN wins
}

template <class T, CommOp op>
void reduce_typed(std::span<const void* const> inputs, void* out, int64_t count) {
  std::array<T, kBlock> sum;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::copy_n(static_cast<const T*>(inputs[0]) + begin, n, sum.begin());
    for (size_t r = 1; r < inputs.size(); ++r) {
      const T* input = static_cast<const T*>(inputs[r]) + begin;
      for (int64_t i = 0; i < n; ++i) {
        T& x = sum[static_cast<size_t>(i)];
        x = op == CommOp::sum ? x + input[i] : larger(x, input[i]);
      }
    }
    std::copy_n(sum.begin(), n, static_cast<T*>(out) + begin);
  }
}

template <class T>
void reduce_by_op(CommOp op, std::span<const void* const> inputs, void* out, int64_t count) {
  if (op == CommOp::sum) return reduce_typed<T, CommOp::sum>(inputs, out, count);
  reduce_typed<T, CommOp::max>(inputs, out, count);
}

}  // namespace

CommCall describe(CommKind kind, CommType type, int64_t count, int root) {
  return {kind, static_cast<int64_t>(type), count, root};
}

std::string call_mismatch(std::span<const CommCall> calls) {
  for (size_t rank = 1; rank < calls.size(); ++rank) {
    if (calls[rank] == calls[0]) continue;
    return cat("[comm] found ", call_text(calls[rank]), " on rank ", rank, ", expected ", call_text(calls[0]),
               " as on rank 0");
  }
  return "";
}

int64_t comm_type_size(CommType type) {
  switch (type) {
    case CommType::f32:
      return 4;
    case CommType::f64:
    case CommType::i64:
      return 8;
    case CommType::u8:
      return 1;
  }
  fail("[comm] found an unknown element type");
}

void reduce_in_order(CommType type, CommOp op, std::span<const void* const> inputs, void* out, int64_t count) {
  switch (type) {
    case CommType::f32:
      return reduce_by_op<float>(op, inputs, out, count);
    case CommType::f64:
      return reduce_by_op<double>(op, inputs, out, count);
    case CommType::i64:
      return reduce_by_op<int64_t>(op, inputs, out, count);
    case CommType::u8:
      break;
  }
  fail("[comm] found uint8 in a reduction, expected float, double or int64");
}

struct CommWorker::Job {
  std::function<void()> task;
  std::mutex mutex;
  std::condition_variable done_signal;
  bool done = false;
  std::exception_ptr error;

  void finish(std::exception_ptr result) {
    const std::lock_guard lock(mutex);
    error = std::move(result);
    done = true;
    done_signal.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    done_signal.wait(lock, [this] { return done; });
  }
};

namespace {

class WorkerRequest final : public CommRequest {
 public:
  explicit WorkerRequest(std::shared_ptr<CommWorker::Job> job) : job_(std::move(job)) {}
  ~WorkerRequest() override { job_->wait(); }  // the buffer is in use until then
  void wait(void*) override {
    job_->wait();
    if (job_->error) std::rethrow_exception(job_->error);
  }

 private:
  std::shared_ptr<CommWorker::Job> job_;
};

}  // namespace

CommWorker::CommWorker() : thread_([this] { run(); }) {}

CommWorker::~CommWorker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  thread_.join();
  const auto dropped = std::make_exception_ptr(Error("[comm] the communicator was destroyed before the request ran"));
  for (const std::shared_ptr<Job>& job : jobs_) job->finish(dropped);
}

std::unique_ptr<CommRequest> CommWorker::submit(std::function<void()> task) {
  auto job = std::make_shared<Job>();
  job->task = std::move(task);
  const std::lock_guard lock(mutex_);
  jobs_.push_back(job);
  wake_.notify_all();
  return std::make_unique<WorkerRequest>(std::move(job));
}

void CommWorker::run() {
  while (true) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = jobs_.front();
      jobs_.pop_front();
    }
    try {
      job->task();
      job->finish(nullptr);
    } catch (...) {
      job->finish(std::current_exception());
    }
  }
}

}  // namespace matvlm
