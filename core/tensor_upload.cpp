#include "core/tensor_upload.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/scalar.h"

namespace matvlm {
namespace {

constexpr int64_t kMaxThreads = 8;
// Elements checked and converted at a time: they stay in a core's cache, and are too few for a thread team, which
// reading threads must not start.
constexpr int64_t kBlock = 32768;

void advise(std::span<const std::byte> bytes, int advice) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const size_t size = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size() - begin;
  madvise(reinterpret_cast<void*>(begin), size, advice);  // only advice: without it pages come when they are touched
}

// Asks the disk for mapped bytes and does not wait for them.
void prefetch(std::span<const std::byte> bytes) { advise(bytes, MADV_WILLNEED); }

// Waits for mapped bytes, and maps them by one call in place of a fault for each page (Linux 5.14 and newer).
void populate([[maybe_unused]] std::span<const std::byte> bytes) {
#ifdef MADV_POPULATE_READ
  advise(bytes, MADV_POPULATE_READ);
#endif
}

// Elements of an item that one thread brings over.
struct Piece {
  size_t item = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// Writes to where the values belong, in memory that the program sees.
class HostLane final : public UploadLane {
 public:
  std::byte* buffer(void* destination, int64_t /*bytes*/) override { return static_cast<std::byte*>(destination); }
  void send(void* /*destination*/, int64_t /*bytes*/) override {}
  void finish() override {}
};

class Upload {
 public:
  Upload(Context& ctx, const TensorSource& source, const std::vector<UploadItem>& items, const UploadOptions& options)
      : ctx_(ctx), source_(source), items_(items), options_(options), stored_(items.size()) {
    check(options.piece_bytes >= 8, "[upload] found pieces of ", options.piece_bytes, " bytes, expected at least 8");
    for (size_t i = 0; i < items.size(); ++i) add(i);
  }

  void run() {
    ctx_.synchronize();  // the destinations' memory may still be in use by work that was queued before
    int64_t threads = options_.threads > 0 ? options_.threads : std::min<int64_t>(kMaxThreads, hardware_threads());
    threads = std::min<int64_t>(threads, static_cast<int64_t>(pieces_.size()));
    ahead_ = static_cast<size_t>(threads);
    for (size_t i = 0; i < ahead_; ++i) prefetch(stored_bytes(pieces_[i]));
    std::vector<std::thread> readers;
    try {
      for (int64_t i = 0; i < threads; ++i) readers.emplace_back([this] { read_pieces(); });
    } catch (const std::exception& error) {
      next_ = pieces_.size();
      for (std::thread& reader : readers) reader.join();
      fail("[upload] cannot start ", threads, " threads: ", error.what());
    }
    for (std::thread& reader : readers) reader.join();
    if (error_) std::rethrow_exception(error_);
    bring_encoded();
  }

 private:
  static int64_t hardware_threads() { return std::max<int64_t>(1, std::thread::hardware_concurrency()); }

  void add(size_t index) {
    const UploadItem& item = items_[index];
    const TensorInfo& info = source_.info(item.name);
    const Tensor& to = item.destination;
    const std::string what = cat(source_.file_of(item.name), ": tensor '", item.name, "'");
    check(info.holds_floats(), what, ": found dtype ", info.type, ", expected F32, BF16, F16 or F64");
    check(info.numel == to.numel(), what, ": found ", info.numel, " elements, expected ", to.numel());
    check(to.contiguous() && (to.dtype() == DType::f32 || to.dtype() == DType::bf16),
          "[upload] found a destination of ", dtype_name(to.dtype()), ", expected contiguous f32 or bf16");
    const auto plain = info.dtype ? source_.plain_bytes(item.name) : std::nullopt;
    if (!plain) {
      encoded_.push_back(index);
      return;
    }
    stored_[index] = *plain;
    const int64_t step = std::max<int64_t>(1, options_.piece_bytes / dtype_size(to.dtype()));
    for (int64_t at = 0; at < info.numel; at += step) pieces_.push_back({index, at, std::min(info.numel, at + step)});
  }

  std::unique_ptr<UploadLane> make_lane() const {
    if (ctx_.on_gpu()) return make_cuda_upload_lane(ctx_, options_.piece_bytes);
    return std::make_unique<HostLane>();
  }

  // Keeps the error of the first piece that has one: pieces are taken in order, so all before it are looked at.
  template <class Action>
  void guarded(size_t order, const Action& action) {
    try {
      action();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      next_ = pieces_.size();
      if (!error_ || order < error_order_) {
        error_ = std::current_exception();
        error_order_ = order;
      }
    }
  }

  void read_pieces() {
    std::unique_ptr<UploadLane> lane;
    size_t at = 0;
    guarded(pieces_.size(), [&] { lane = make_lane(); });
    while (lane && (at = next_.fetch_add(1)) < pieces_.size()) {
      // The disk reads the next pieces while these are copied.
      if (at + ahead_ < pieces_.size()) prefetch(stored_bytes(pieces_[at + ahead_]));
      guarded(at, [&] { bring(*lane, pieces_[at]); });
    }
    if (lane) guarded(pieces_.size(), [&] { lane->finish(); });
  }

  std::span<const std::byte> stored_bytes(const Piece& piece) const {
    const int64_t size = dtype_size(*source_.info(items_[piece.item].name).dtype);
    return stored_[piece.item].subspan(static_cast<size_t>(piece.begin * size),
                                       static_cast<size_t>((piece.end - piece.begin) * size));
  }

  void bring(UploadLane& lane, const Piece& piece) {
    const UploadItem& item = items_[piece.item];
    const DType stored = *source_.info(item.name).dtype;
    const auto bytes = stored_bytes(piece);
    populate(bytes);
    std::byte* destination = address(item.destination, piece.begin);
    const int64_t size = (piece.end - piece.begin) * dtype_size(item.destination.dtype());
    copy(item, stored, bytes, piece.begin, lane.buffer(destination, size));
    lane.send(destination, size);
  }

  static std::byte* address(const Tensor& tensor, int64_t element) {
    return static_cast<std::byte*>(tensor.raw()) + element * dtype_size(tensor.dtype());
  }

  // Tensors that must be decoded or gathered first, whole, by the calling thread and its team.
  void bring_encoded() {
    if (encoded_.empty()) return;
    const std::unique_ptr<UploadLane> lane = make_lane();
    for (const size_t index : encoded_) {
      const UploadItem& item = items_[index];
      const std::vector<float> values = source_.read_floats(item.name);
      const auto bytes = std::as_bytes(std::span<const float>(values));
      const int64_t step = std::max<int64_t>(1, options_.piece_bytes / dtype_size(DType::f32));
      for (int64_t at = 0; at < std::ssize(values); at += step) {
        const int64_t count = std::min(step, std::ssize(values) - at);
        std::byte* destination = address(item.destination, at);
        const int64_t size = count * dtype_size(item.destination.dtype());
        const auto part =
            bytes.subspan(static_cast<size_t>(at) * sizeof(float), static_cast<size_t>(count) * sizeof(float));
        copy(item, DType::f32, part, at, lane->buffer(destination, size));
        lane->send(destination, size);
      }
    }
    lane->finish();
  }

  // Elements from `first` on, checked and in the destination's type, to `out`, which is aligned to that.
  void copy(const UploadItem& item, DType from, std::span<const std::byte> bytes, int64_t first, std::byte* out) const {
    const int64_t size = dtype_size(from);
    const int64_t count = std::ssize(bytes) / size;
    for (int64_t at = 0; at < count; at += kBlock) {
      const int64_t n = std::min(kBlock, count - at);
      const auto block = bytes.subspan(static_cast<size_t>(at * size), static_cast<size_t>(n * size));
      check_finite(item, from, block, first + at);
      copy_block(from, block, item.destination.dtype(), out + at * dtype_size(item.destination.dtype()));
    }
  }

  void check_finite(const UploadItem& item, DType dtype, std::span<const std::byte> bytes, int64_t first) const {
    const int64_t bad = first_not_finite(dtype, bytes);
    if (bad < 0) return;
    std::array<float, 1> value{};
    const auto size = static_cast<size_t>(dtype_size(dtype));
    convert_to_floats(item.name, dtype, bytes.subspan(static_cast<size_t>(bad) * size, size), value);
    fail(source_.path(), ": '", item.name, "': found ", value[0], " at element ", first + bad,
         ", expected finite numbers");
  }

  static void copy_block(DType from, std::span<const std::byte> bytes, DType to, std::byte* out) {
    if (from == to) {
      std::memcpy(out, bytes.data(), bytes.size());
      return;
    }
    const auto count = bytes.size() / static_cast<size_t>(dtype_size(from));
    if (to == DType::f32) return convert_to_floats("[upload]", from, bytes, {reinterpret_cast<float*>(out), count});
    std::array<float, kBlock> values;
    convert_to_floats("[upload]", from, bytes, std::span<float>(values).first(count));
    auto* rounded = reinterpret_cast<bf16*>(out);
    for (size_t i = 0; i < count; ++i) rounded[i] = bf16(values[i]);
  }

  Context& ctx_;
  const TensorSource& source_;
  const std::vector<UploadItem>& items_;
  UploadOptions options_;
  std::vector<std::span<const std::byte>> stored_;  // of the items that stand in their file as they are
  std::vector<size_t> encoded_;                     // the other items
  std::vector<Piece> pieces_;
  size_t ahead_ = 0;  // pieces that are asked for before their turn
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
  size_t error_order_ = 0;
};

}  // namespace

void upload_tensors(Context& ctx, const TensorSource& source, const std::vector<UploadItem>& items,
                    const UploadOptions& options) {
  Upload(ctx, source, items, options).run();
}

void upload_into(Context& ctx, const Tensor& destination, const TensorSource& source, const std::string& name) {
  upload_tensors(ctx, source, {{destination, name}});
}

}  // namespace matvlm
