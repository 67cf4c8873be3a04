// All-reduce of float32 through the program's communicator, one process a GPU, under mpirun: time, and bus bandwidth by
// the formula of nccl-tests, 2 (N - 1) / N * bytes / time. Arguments: [cuda|cpu] [GRADIENTS]; GRADIENTS: also the sum
// of so many floats in the buckets of a training step. On the CPU the ways are the same, over MPI and up to 16 MiB.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/comm.h"
#include "core/comm_mpi.h"
#include "core/context.h"
#include "core/error.h"
#include "core/log.h"
#include "core/tensor.h"

namespace matvlm {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kBucketBytes = 25 * kMiB;  // as Trainer::Setup::bucket_bytes
constexpr int kTimings = 5;                  // of which the median is taken

struct Bench {
  Context& ctx;
  Comm& host;
  Comm& comm;
  int repetitions;

  // Sums all of `values` in pieces of at most `piece` floats, the last first.
  void sum(std::span<float> values, size_t piece) const {
    std::vector<std::unique_ptr<CommRequest>> requests;
    for (size_t end = values.size(); end > 0;) {
      const size_t begin = end > piece ? end - piece : 0;
      requests.push_back(comm.start_all_reduce_sum(values.subspan(begin, end - begin), ctx.stream_handle()));
      end = begin;
    }
    for (const auto& request : requests) request->wait();
  }

  // Seconds of one sum on the slowest rank, median of several timings.
  double seconds(std::span<float> values, size_t piece) const {
    sum(values, piece);
    std::vector<double> times;
    for (int i = 0; i < kTimings; ++i) {
      ctx.synchronize();
      host.barrier();
      const auto start = std::chrono::steady_clock::now();
      for (int k = 0; k < repetitions; ++k) sum(values, piece);
      ctx.synchronize();
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repetitions);
    }
    host.all_reduce_max(times);
    std::nth_element(times.begin(), times.begin() + kTimings / 2, times.end());
    return times[kTimings / 2];
  }

  // The sum of 1, 2, ... N at both ends of the buffer.
  void check_sum(std::span<float> values) const {
    const auto n = static_cast<int64_t>(std::min<size_t>(values.size(), kMiB / 4));
    const std::vector<float> own(static_cast<size_t>(n), static_cast<float>(comm.rank() + 1));
    float* ends[] = {values.data(), values.data() + (static_cast<int64_t>(values.size()) - n)};
    for (float* end : ends) ctx.to_device(end, own.data(), n * 4);
    ctx.synchronize();
    sum(values, values.size());
    const float expected = static_cast<float>(comm.size()) * static_cast<float>(comm.size() + 1) / 2;
    for (float* end : ends) {
      std::vector<float> found(static_cast<size_t>(n));
      ctx.to_host(found.data(), end, n * 4);
      for (const float v : found) check(v == expected, "all-reduce: found ", v, ", expected ", expected);
    }
  }
};

double bus_bandwidth(int ranks, int64_t bytes, double seconds) {
  return 2.0 * (ranks - 1) / ranks * static_cast<double>(bytes) / seconds * 1e-9;
}

void run(const MpiRuntime& runtime, const std::string& device, int64_t gradients) {
  check(device == "cpu" || device == "cuda", "found device '", device, "', expected cuda or cpu");
  const bool gpu = device == "cuda";
  const std::unique_ptr<Comm> host = make_mpi_comm(runtime);
  const std::unique_ptr<Context> ctx = gpu ? make_cuda_context(runtime.local_rank()) : make_cpu_context(1);
  const std::unique_ptr<Comm> nccl = gpu ? make_nccl_comm(*host, runtime.local_rank()) : nullptr;
  const Bench bench{*ctx, *host, gpu ? *nccl : *host, gpu ? 20 : 2};
  const bool tells = host->rank() == 0;
  const auto buffer_of = [&](int64_t count) { return Tensor::zeros(*ctx, {count}, DType::f32); };
  const auto span_of = [](const Tensor& t) {
    return std::span<float>(t.data<float>(), static_cast<size_t>(t.numel()));
  };
  for (int64_t mib = 1; mib <= (gpu ? 1024 : 16); mib *= 4) {
    const Tensor buffer = buffer_of(mib * kMiB / 4);
    bench.check_sum(span_of(buffer));
    ctx->fill_bytes(buffer.raw(), 0, mib * kMiB);  // sums of zeros stay finite, however many are made
    const double s = bench.seconds(span_of(buffer), static_cast<size_t>(buffer.numel()));
    if (tells) {
      std::printf("all-reduce %5ld MiB on %d ranks: %8.3f ms, bus %6.1f GB/s\n", static_cast<long>(mib), host->size(),
                  1e3 * s, bus_bandwidth(host->size(), mib * kMiB, s));
    }
  }
  if (gradients <= 0) return;
  const Tensor buffer = buffer_of(gradients);
  const double s = bench.seconds(span_of(buffer), static_cast<size_t>(kBucketBytes / 4));
  if (tells) {
    std::printf("gradients %ld MiB in buckets of 25 MiB: %.3f ms, bus %.1f GB/s\n",
                static_cast<long>(gradients * 4 / kMiB), 1e3 * s, bus_bandwidth(host->size(), gradients * 4, s));
  }
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  try {
    const matvlm::MpiRuntime runtime;
    matvlm::log_init(runtime.rank(), runtime.size());
    try {
      matvlm::run(runtime, argc > 1 ? argv[1] : "cuda", argc > 2 ? std::stoll(argv[2]) : 0);
    } catch (const std::exception& error) {
      matvlm::log_error(error.what());
      throw;
    }
  } catch (const std::exception&) {
    return 1;
  }
  return 0;
}
