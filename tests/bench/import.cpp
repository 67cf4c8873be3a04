// Import of weights: how fast a file of safetensors comes to the device, against the slower of its two parts, reading
// the file and copying to the device. Arguments: [cuda|cpu] [GIB] [FILE]; the file is written, read cold and warm, and
// removed.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/file.h"
#include "core/safetensors.h"
#include "core/tensor_upload.h"

namespace matvlm {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kTensorBytes = 64 * kMiB;  // a large matrix of a 3 B model
constexpr int64_t kPiece = 4 * kMiB;
constexpr int kRepetitions = 3;  // of which the fastest counts

double seconds_of(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void write_weights(const std::string& path, int64_t tensors) {
  std::vector<TensorSpec> specs;
  for (int64_t i = 0; i < tensors; ++i) specs.push_back({cat("w", i), DType::bf16, {kTensorBytes / 2 / 2048, 2048}});
  SafetensorsWriter writer(path, specs);
  std::vector<bf16> values(static_cast<size_t>(kTensorBytes / 2));
  for (const TensorSpec& spec : writer.order()) {
    for (size_t i = 0; i < values.size(); ++i) {  // finite, and other ones in every tensor
      values[i].bits = static_cast<uint16_t>(0x3f00U + ((i * 31 + spec.name.size() * 17 + spec.name.back()) & 0xffU));
    }
    writer.append(spec.name, std::as_bytes(std::span<const bf16>(values)));
  }
  writer.commit();
}

// The share of the file that is still in the page cache after it was dropped.
double drop_from_cache(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(path, ": cannot open");
  fdatasync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  close(file);
  const MappedFile mapped(path);
  std::vector<unsigned char> pages(static_cast<size_t>((mapped.size() + 4095) / 4096));
  auto* begin = const_cast<std::byte*>(mapped.bytes().data());
  if (mincore(begin, static_cast<size_t>(mapped.size()), pages.data()) != 0) return 1;
  const auto held = std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1U) != 0; });
  return static_cast<double>(held) / static_cast<double>(pages.size());
}

void read_alone(const std::string& path, int64_t threads) {
  const int64_t size = MappedFile(path).size();
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::atomic<int64_t> next{0};
  std::vector<std::thread> readers;
  for (int64_t i = 0; i < threads; ++i) {
    readers.emplace_back([&] {
      std::vector<std::byte> buffer(kPiece);
      for (int64_t at = 0; (at = next.fetch_add(kPiece)) < size;) {
        for (int64_t done = 0; done < std::min(kPiece, size - at);) {
          const ssize_t n = pread(file, buffer.data(), static_cast<size_t>(kPiece - done), at + done);
          if (n <= 0) return;
          done += n;
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  close(file);
}

int run(const std::string& device, int64_t gib, const std::string& path) {
  const auto ctx = device == "cuda" ? make_cuda_context(0) : make_cpu_context();
  const int64_t tensors = std::max<int64_t>(1, gib * 1024 * kMiB / kTensorBytes);
  const double size = static_cast<double>(tensors * kTensorBytes) / 1e9;
  const int64_t threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 8);
  std::printf("%s, %.2f GB, %lld threads, %s\n", ctx->description().c_str(), size, static_cast<long long>(threads),
              path.c_str());
  std::printf("written at %.2f GB/s\n", size / seconds_of([&] { write_weights(path, tensors); }));
  const TensorSource source = TensorSource::open(path);
  std::vector<UploadItem> items;
  for (const std::string& name : source.names()) {
    items.push_back({Tensor::empty(*ctx, {kTensorBytes / 2 / 2048, 2048}, DType::bf16), name});
  }

  const auto best = [&](bool cold, const std::function<void()>& action) {
    double seconds = 1e9;
    for (int i = 0; i < kRepetitions; ++i) {
      const double held = cold ? drop_from_cache(path) : 0;
      if (held > 0.01) std::printf("%.0f %% of the file stay in the page cache: not cold\n", 100 * held);
      seconds = std::min(seconds, seconds_of(action));
    }
    return size / seconds;
  };
  double copy = 1e9;
  if (ctx->on_gpu()) {
    const auto lane = make_cuda_upload_lane(*ctx, kPiece);
    copy = best(false, [&] {
      for (const UploadItem& item : items) {
        for (int64_t at = 0; at < kTensorBytes; at += kPiece) {
          std::byte* to = static_cast<std::byte*>(item.destination.raw()) + at;
          lane->buffer(to, kPiece);
          lane->send(to, kPiece);
        }
      }
      lane->finish();
    });
    std::printf("%-34s %7.2f GB/s\n", "copy to the device alone", copy);
  }
  for (const bool cold : {true, false}) {
    const double read = best(cold, [&] { read_alone(path, threads); });
    const double import = best(cold, [&] { upload_tensors(*ctx, source, items); });
    std::printf("%-34s %7.2f GB/s\n", cold ? "reading alone, cold" : "reading alone, from the page cache", read);
    std::printf("%-34s %7.2f GB/s, %.0f %% of the slower\n", cold ? "import, cold" : "import, from the page cache",
                import, 100 * import / std::min(read, copy));
  }
  const double plain = best(false, [&] {
    for (const UploadItem& item : items) {
      ctx->to_device(item.destination.raw(), source.bytes(item.name).data(), kTensorBytes);
    }
  });
  std::printf("%-34s %7.2f GB/s\n", "one copy from the mapped file", plain);
  return 0;
}

}  // namespace
}  // namespace matvlm

int main(int argc, char** argv) {
  const std::string device = argc > 1 ? argv[1] : "cuda";
  const int64_t gib = argc > 2 ? std::atoll(argv[2]) : 6;
  const std::string path = argc > 3 ? argv[3] : "bench_import.safetensors";
  int result = 1;
  try {
    result = matvlm::run(device, gib, path);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  unlink(path.c_str());
  return result;
}
