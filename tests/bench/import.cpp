// Import of weights: how fast a checkpoint comes from the disk to the device, against the slower of its two parts, the
// disk alone (O_DIRECT, past the page cache, several readers) and the copy to the device alone.
//   bench_import [cuda|cpu] [GB] [SECONDS] [FOLDER]      default: cuda 6 20 .
// Shards of 0.5 GB are written to FOLDER and removed at the end; when writing them has taken two fifths of SECONDS the
// measurement goes on with those that are there. Every figure is printed as soon as it is known.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/file.h"
#include "core/safetensors.h"
#include "core/tensor_upload.h"

namespace matvlm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kTensorBytes = 64 * kMiB;  // a large matrix of a 3 B model
constexpr int64_t kColumns = 2048;
constexpr int64_t kShardTensors = 8;
constexpr int64_t kPiece = 4 * kMiB;
constexpr size_t kPage = 4096;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double seconds_of(const std::function<void()>& action) {
  const auto start = Clock::now();
  action();
  return seconds_since(start);
}

int64_t hardware_threads() { return std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 8); }

// Runs `action` on several threads; an exception of one of them is thrown here.
void in_threads(int64_t count, const std::function<void()>& action) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(count));
  for (std::exception_ptr& error : errors) {
    threads.emplace_back([&action, &error] {
      try {
        action();
      } catch (...) {
        error = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Files that are removed when the program ends.
struct Shards {
  ~Shards() {
    for (const std::string& path : paths) unlink(path.c_str());
  }
  int64_t bytes() const { return std::ssize(paths) * kShardTensors * kTensorBytes; }
  std::vector<std::string> paths;
};

// Finite values that do not compress well, other ones in each tensor.
void write_shard(const std::string& path, int64_t shard) {
  std::vector<TensorSpec> specs;
  for (int64_t i = 0; i < kShardTensors; ++i) {
    specs.push_back({cat("w", shard * kShardTensors + i), DType::bf16, {kTensorBytes / 2 / kColumns, kColumns}});
  }
  SafetensorsWriter writer(path, specs);
  std::vector<bf16> values(static_cast<size_t>(kTensorBytes / 2));
  uint64_t state = static_cast<uint64_t>(shard + 1) * 0x9E3779B97F4A7C15ULL;
  for (bf16& value : values) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    value.bits = static_cast<uint16_t>(0x3c00U | ((state >> 40) & 0x83ffU));
  }
  for (const TensorSpec& spec : writer.order()) {
    values[static_cast<size_t>(spec.name.back()) * 4096].bits ^= 1U;
    writer.append(spec.name, std::as_bytes(std::span<const bf16>(values)));
  }
  writer.commit();  // on the disk
}

void write_shards(Shards& shards, const std::string& folder, int64_t count, double limit) {
  for (int64_t i = 0; i < count; ++i) shards.paths.push_back(cat(folder, "/bench_import-", i, ".safetensors"));
  std::atomic<int64_t> next{0}, done{0};
  const auto start = Clock::now();
  in_threads(std::min<int64_t>(4, hardware_threads()), [&] {
    while (seconds_since(start) < limit) {
      const int64_t shard = next.fetch_add(1);
      if (shard >= count) return;
      write_shard(shards.paths[static_cast<size_t>(shard)], shard);
      ++done;
    }
  });
  shards.paths.resize(static_cast<size_t>(done));  // shards are taken in order, and each that is taken is written
  check(!shards.paths.empty(), "[bench] found no time to write a shard, expected more seconds");
  const double written = static_cast<double>(shards.bytes()) / 1e9;
  std::printf("written: %.2f GB at %.2f GB/s%s\n", written, written / seconds_since(start),
              done < count ? " (no time for more)" : "");
}

// Drops the files from the page cache, and returns the share of them that is still there: cold when it is next to 0.
// Nothing may have them mapped.
double drop_from_cache(const Shards& shards) {
  int64_t held = 0, pages = 0;
  for (const std::string& path : shards.paths) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(path, ": cannot open");
    fdatasync(file);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
    const MappedFile mapped(path);
    std::vector<unsigned char> in_core((static_cast<size_t>(mapped.size()) + kPage - 1) / kPage);
    auto* begin = const_cast<std::byte*>(mapped.bytes().data());
    if (mincore(begin, static_cast<size_t>(mapped.size()), in_core.data()) != 0) return 1;
    held += std::count_if(in_core.begin(), in_core.end(), [](unsigned char page) { return (page & 1U) != 0; });
    pages += std::ssize(in_core);
  }
  return static_cast<double>(held) / static_cast<double>(pages);
}

// The files' bytes in pieces by several threads, past the page cache where `direct` says so and the system can.
// Returns whether it could.
bool read_alone(const Shards& shards, bool direct, int64_t threads) {
  std::vector<int> files;
  for (const std::string& path : shards.paths) {
    int file = direct ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT) : -1;
    if (file < 0) {
      direct = false;
      file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    }
    if (file < 0) fail(path, ": cannot open");
    files.push_back(file);
  }
  const int64_t shard = kShardTensors * kTensorBytes / kPiece;  // pieces; the header's bytes are left out
  std::atomic<int64_t> next{0};
  in_threads(threads, [&] {
    const std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(kPage, kPiece), std::free);
    for (int64_t i = 0; (i = next.fetch_add(1)) < shard * std::ssize(files);) {
      const int file = files[static_cast<size_t>(i / shard)];
      for (int64_t done = 0; done < kPiece;) {
        const ssize_t n = pread(file, static_cast<std::byte*>(buffer.get()) + done, static_cast<size_t>(kPiece - done),
                                i % shard * kPiece + done);
        check(n > 0, "[bench] cannot read ", shards.paths[static_cast<size_t>(i / shard)]);
        done += n;
      }
    }
  });
  for (const int file : files) close(file);
  return direct;
}

class ImportBench {
 public:
  ImportBench(Context& ctx, const Shards& shards) : ctx_(ctx), shards_(shards) {
    for (int64_t i = 0; i < std::ssize(shards.paths) * kShardTensors; ++i) {
      items_.push_back({Tensor::zeros(ctx, {kTensorBytes / 2 / kColumns, kColumns}, DType::bf16), cat("w", i)});
    }
  }

  // Each returns GB/s and prints it.
  double copy() {
    const auto lane = make_cuda_upload_lane(ctx_, kPiece);
    const auto send_all = [&] {
      for (const UploadItem& item : items_) {
        for (int64_t at = 0; at < kTensorBytes; at += kPiece) {
          std::byte* to = static_cast<std::byte*>(item.destination.raw()) + at;
          lane->buffer(to, kPiece);
          lane->send(to, kPiece);
        }
      }
      lane->finish();
    };
    send_all();
    return print("copy to the device alone", seconds_of(send_all), "pinned, one stream");
  }
  double read(bool direct) {
    const double held = drop_from_cache(shards_);
    bool past_cache = false;
    const double seconds = seconds_of([&] { past_cache = read_alone(shards_, direct, 2 * hardware_threads()); });
    return print("reading alone", seconds, past_cache ? "O_DIRECT" : cat("page cache, ", temperature(held)));
  }
  double import(bool cold) {
    const double held = cold ? drop_from_cache(shards_) : 1;
    const double seconds = seconds_of([&] {  // opening the files is a part of it
      upload_tensors(ctx_, TensorSource::from_files(shards_.paths), items_);
    });
    return print("import", seconds, temperature(held));
  }

 private:
  static std::string temperature(double held) {
    if (held < 0.01) return "cold";
    return held > 0.99 ? "from the page cache" : cat("NOT cold: ", std::llround(100 * held), " % was cached");
  }
  double print(const char* what, double seconds, const std::string& how) const {
    const double rate = static_cast<double>(shards_.bytes()) / 1e9 / seconds;
    std::printf("%-26s %7.2f GB/s  (%s, %.2f s)\n", what, rate, how.c_str(), seconds);
    return rate;
  }

  Context& ctx_;
  const Shards& shards_;
  std::vector<UploadItem> items_;
};

int run(const std::string& device, double gb, double limit, const std::string& folder) {
  const auto start = Clock::now();
  const auto ctx = device == "cuda" ? make_cuda_context(0) : make_cpu_context();
  std::printf("%s, %lld threads, %s\n", ctx->description().c_str(), static_cast<long long>(hardware_threads()),
              folder.c_str());
  Shards shards;
  const auto count = static_cast<int64_t>(gb * 1e9 / static_cast<double>(kShardTensors * kTensorBytes) + 0.999);
  write_shards(shards, folder, std::max<int64_t>(1, count), 0.4 * limit);
  ImportBench bench(*ctx, shards);
  const double copy = ctx->on_gpu() ? bench.copy() : 1e9;
  double read = 0, import = 0, round = 0;
  bool direct = true;
  do {  // the best of each, as long as there is time
    const auto begin = Clock::now();
    read = std::max(read, bench.read(direct));
    import = std::max(import, bench.import(true));
    direct = !direct;
    round = seconds_since(begin);
  } while (seconds_since(start) + round < limit);
  std::printf("import: %.0f %% of the slower of disk (%.2f GB/s) and copy (%.2f GB/s)\n",
              100 * import / std::min(read, copy), read, ctx->on_gpu() ? copy : 0.0);
  bench.import(false);
  return 0;
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a run that is cut short has printed what it measured
  try {
    return matvlm::run(argc > 1 ? argv[1] : "cuda", argc > 2 ? std::atof(argv[2]) : 6.0,
                       argc > 3 ? std::atof(argv[3]) : 20.0, argc > 4 ? argv[4] : ".");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
