// Process and Runtime: see runtime.h.
#include "launch/runtime.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include "core/error.h"
#include "core/log.h"

namespace matvlm {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

void on_signal(int signal) { stop_signal = signal; }

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // no system call of a library needs to know
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  // A write beyond a file size limit shall be an error with a message, as a full disk is, not a silent end.
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &ignore, nullptr);
}

int available_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool use_gpu(DeviceChoice choice) {
  return choice == DeviceChoice::cuda || (choice == DeviceChoice::automatic && cuda_device_count() > 0);
}

}  // namespace

Process::Process() : mpi_(std::make_unique<MpiRuntime>()) {
  log_init(mpi_->rank(), mpi_->size());
  install_signal_handlers();
  host_ = make_mpi_comm(*mpi_);
}

Process::~Process() = default;

void Process::log_to(const std::string& file) const {
  if (rank() == 0) log_init(rank(), size(), file);
}

int Process::report_failure(const std::string& message) const {
  if (rank() != 0) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(3);
    while (std::chrono::steady_clock::now() < deadline) {
      // mpirun tells us, by default after a second, that the job is being ended.
      if (stop_requested()) std::_Exit(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  log_error(message);
  if (size() > 1) mpi_->abort(1);
  return 1;
}

bool stop_requested() { return stop_signal != 0; }

bool stop_agreed(Comm& host) {
  int64_t stop = stop_requested() ? 1 : 0;
  if (host.size() > 1) host.all_reduce_max(std::span<int64_t>(&stop, 1));
  return stop != 0;
}

int threads_per_rank(int local_ranks) {
  const char* wanted = std::getenv("OMP_NUM_THREADS");
  if (wanted == nullptr || *wanted == '\0') return std::max(1, available_cores() / std::max(1, local_ranks));
  int threads = 0;
  const char* end = wanted + std::strlen(wanted);
  const auto [stop, error] = std::from_chars(wanted, end, threads);
  // OpenMP allows a list for nested regions, whose first number counts here.
  const bool ok = error == std::errc() && (stop == end || *stop == ',') && threads > 0;
  check(ok, "OMP_NUM_THREADS: found '", wanted, "', expected a whole number above 0");
  return threads;
}

Runtime::Runtime(Process& process, DeviceChoice device, DType precision)
    : process_(process),
      precision_(precision),
      threads_(threads_per_rank(process.mpi().local_size())),
      exceptions_at_start_(std::uncaught_exceptions()),
      cpu_(make_cpu_context(threads_)) {
  const MpiRuntime& mpi = process.mpi();
  if (!use_gpu(device)) {
    check(precision == DType::f32, "key 'precision': found ", dtype_name(precision), " on the CPU, expected f32 there");
    return;
  }
  const int devices = cuda_device_count();
  check(devices > 0, "key 'device': found cuda, but this build or machine has no usable GPU, expected cpu or auto");
  check(mpi.local_size() <= devices, "key 'device': found ", mpi.local_size(), " ranks on ", mpi.host(), " with ",
        devices, " GPUs, expected at most one rank a GPU");
  check(process.size() == 1 || have_nccl(), "key 'device': found ", process.size(),
        " GPU ranks in a build without NCCL, expected one rank, or a build with NCCL");
  gpu_ = make_cuda_context(mpi.local_rank());
  if (have_nccl()) nccl_ = make_nccl_comm(process.host(), mpi.local_rank());
}

Runtime::~Runtime() {
  if (process_.size() == 1 || std::uncaught_exceptions() <= exceptions_at_start_) return;
  static_cast<void>(nccl_.release());
  static_cast<void>(gpu_.release());
}

std::string Runtime::description() {
  return cat(process_.size(), process_.size() == 1 ? " rank, " : " ranks, ", ctx().description(), ", ",
             dtype_name(precision_), gpu_ ? cat(", ", threads_, " host threads") : "");
}

DeviceChoice parse_device(const std::string& text) {
  if (text == "auto") return DeviceChoice::automatic;
  if (text == "cpu") return DeviceChoice::cpu;
  if (text == "cuda") return DeviceChoice::cuda;
  fail("--device: found '", text, "', expected auto, cpu or cuda");
}

DType parse_precision(const std::string& text) {
  if (text == "f32") return DType::f32;
  if (text == "bf16") return DType::bf16;
  fail("--precision: found '", text, "', expected f32 or bf16");
}

}  // namespace matvlm
