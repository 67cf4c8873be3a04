// StagedComm: see staged_comm.h. The collectives run on the stream of the context, as those of a training step do.
#include "tests/support/staged_comm.h"

#include <algorithm>
#include <exception>
#include <span>
#include <utility>

#include "core/comm_host.h"
#include "core/error.h"
#include "core/tensor.h"

namespace matvlm::testing {
namespace {

int64_t bytes_of(int64_t count, CommType type) { return count * comm_type_size(type); }

// Device memory with the values of a host buffer.
class Staged {
 public:
  Staged(Context& ctx, const void* host, int64_t count, CommType type)
      : ctx_(&ctx),
        bytes_(bytes_of(count, type)),
        tensor_(Tensor::zeros(ctx, {std::max<int64_t>(bytes_, 1)}, DType::u8)) {
    if (bytes_ > 0) ctx.to_device(tensor_.raw(), host, bytes_);
    ctx.synchronize();  // the collective may name no stream
  }
  void* data() const { return tensor_.raw(); }
  void back(void* host) const {
    ctx_->synchronize();
    if (bytes_ > 0) ctx_->to_host(host, tensor_.raw(), bytes_);
  }

 private:
  Context* ctx_;
  int64_t bytes_;
  Tensor tensor_;
};

class StagedRequest final : public CommRequest {
 public:
  StagedRequest(Staged staged, std::unique_ptr<CommRequest> request, void* host)
      : staged_(std::move(staged)), request_(std::move(request)), host_(host) {}
  ~StagedRequest() override {
    try {
      if (!waited_) wait(nullptr);
    } catch (const std::exception&) {  // wait() is where errors are told
    }
  }
  void wait(void*) override {
    if (std::exchange(waited_, true)) return;
    request_->wait(nullptr);
    staged_.back(host_);
  }

 private:
  Staged staged_;
  std::unique_ptr<CommRequest> request_;
  void* host_;
  bool waited_ = false;
};

template <class T>
std::span<T> typed(void* data, int64_t count) {
  return {static_cast<T*>(data), static_cast<size_t>(count)};
}

template <class T>
std::span<const T> constant(const void* data, int64_t count) {
  return {static_cast<const T*>(data), static_cast<size_t>(count)};
}

class StagedComm final : public Comm {
 public:
  StagedComm(Context& ctx, Comm& device) : Comm(device.rank(), device.size()), ctx_(ctx), device_(device) {
    check(ctx.on_gpu() == device.on_gpu(), "[staged] context and communicator are on different devices");
  }
  void barrier() override { device_.barrier(); }
  void abort(int code) override { device_.abort(code); }
  std::string async_error() override { return device_.async_error(); }

 protected:
  void run_all_reduce(CommBuffer values, CommOp op, void*) override {
    const Staged staged(ctx_, values.data, values.count, values.type);
    const auto reduce = [&](auto span) {
      op == CommOp::sum ? device_.all_reduce_sum(span, stream()) : device_.all_reduce_max(span, stream());
    };
    if (values.type == CommType::f32) {
      reduce(typed<float>(staged.data(), values.count));
    } else if (values.type == CommType::f64) {
      reduce(typed<double>(staged.data(), values.count));
    } else {
      check(values.type == CommType::i64, "[staged] all_reduce of this type is not offered");
      reduce(typed<int64_t>(staged.data(), values.count));
    }
    staged.back(values.data);
  }

  std::unique_ptr<CommRequest> start_all_reduce(CommBuffer values, CommOp op, void*) override {
    check(values.type == CommType::f32 && op == CommOp::sum, "[staged] requests are sums of float");
    Staged staged(ctx_, values.data, values.count, values.type);
    auto request = device_.start_all_reduce_sum(typed<float>(staged.data(), values.count), stream());
    return std::make_unique<StagedRequest>(std::move(staged), std::move(request), values.data);
  }

  void run_reduce_scatter(CommInput all, CommBuffer own, void*) override {
    const Staged input(ctx_, all.data, all.count, all.type);
    const Staged output(ctx_, own.data, own.count, own.type);
    void* result = slice_or(input, all.data, all.count, all.type, own.data, output);
    if (all.type == CommType::f32) {
      device_.reduce_scatter_sum(constant<float>(input.data(), all.count), typed<float>(result, own.count), stream());
    } else {
      device_.reduce_scatter_sum(constant<double>(input.data(), all.count), typed<double>(result, own.count), stream());
    }
    copy_back(result, own);
  }

  void run_all_gather(CommInput own, CommBuffer all, void*) override {
    const Staged output(ctx_, all.data, all.count, all.type);
    const Staged input(ctx_, own.data, own.count, own.type);
    const void* from = slice_or(output, all.data, all.count, all.type, own.data, input);
    const auto gather = [&](auto own_span, auto all_span) { device_.all_gather(own_span, all_span, stream()); };
    switch (own.type) {
      case CommType::f32:
        gather(constant<float>(from, own.count), typed<float>(output.data(), all.count));
        break;
      case CommType::f64:
        gather(constant<double>(from, own.count), typed<double>(output.data(), all.count));
        break;
      case CommType::i64:
        gather(constant<int64_t>(from, own.count), typed<int64_t>(output.data(), all.count));
        break;
      case CommType::u8:
        gather(constant<uint8_t>(from, own.count), typed<uint8_t>(output.data(), all.count));
        break;
    }
    output.back(all.data);
  }

  void run_broadcast(CommBuffer values, int root, void*) override {
    const Staged staged(ctx_, values.data, values.count, values.type);
    // Bytes are bytes, but each type goes its own way through the library.
    switch (values.type) {
      case CommType::f32:
        device_.broadcast(typed<float>(staged.data(), values.count), root, stream());
        break;
      case CommType::f64:
        device_.broadcast(typed<double>(staged.data(), values.count), root, stream());
        break;
      case CommType::i64:
        device_.broadcast(typed<int64_t>(staged.data(), values.count), root, stream());
        break;
      case CommType::u8:
        device_.broadcast(typed<uint8_t>(staged.data(), values.count), root, stream());
        break;
    }
    staged.back(values.data);
  }

 private:
  void* stream() { return ctx_.stream_handle(); }

  // Where `part` lies within `whole` on the device when it does on the host, else its own device memory.
  static void* slice_or(const Staged& whole, const void* host_whole, int64_t count, CommType type, const void* part,
                        const Staged& own) {
    const auto* begin = static_cast<const std::byte*>(host_whole);
    const auto* at = static_cast<const std::byte*>(part);
    if (count == 0 || at < begin || at >= begin + bytes_of(count, type)) return own.data();
    return static_cast<std::byte*>(whole.data()) + (at - begin);
  }

  void copy_back(const void* from, CommBuffer to) {
    ctx_.synchronize();
    if (to.count > 0) ctx_.to_host(to.data, from, bytes_of(to.count, to.type));
  }

  Context& ctx_;
  Comm& device_;
};

}  // namespace

std::unique_ptr<Comm> make_staged_comm(Context& ctx, Comm& device) { return std::make_unique<StagedComm>(ctx, device); }

}  // namespace matvlm::testing
