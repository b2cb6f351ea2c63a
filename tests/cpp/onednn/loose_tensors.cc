// Operands as a plan may have them: with gaps between rows, in float32 or bfloat16.
#include <cmath>
#include <cstring>
#include <memory>

#include "tests/cpp/check.h"
#include "tests/cpp/onednn/op.h"

namespace top::testing {
namespace {

// A tensor as a primitive may get it: with `gap` unused elements behind each row of its last
// dimension, in float32 or bfloat16.
class LooseTensor {
 public:
  LooseTensor(const std::vector<int64_t>& shape, int64_t gap, bool bfloat16)
      : shape_(shape), strides_(shape.size(), 1), bfloat16_(bfloat16) {
    int64_t row = shape.back() + gap;
    for (size_t axis = shape.size() - 1; axis-- > 0; row *= shape[axis]) strides_[axis] = row;
    memory_ = std::make_unique<Buffer>(elements(shape) / shape.back() * (shape.back() + gap));
    for (size_t i = 0; i < memory_->size(); ++i) write(i, kUnused);
  }

  DLTensor view(bool with_data) {
    const DLDataType dtype = bfloat16_ ? DLDataType{kDLBfloat, 16, 1} : DLDataType{kDLFloat, 32, 1};
    return {with_data ? memory_->data() : nullptr,
            {kDLCPU, 0},
            static_cast<int32_t>(shape_.size()),
            dtype,
            shape_.data(),
            strides_.data(),
            0};
  }
  // Copies in, and rounds the source like the copy.
  void fill(const Buffer& source) {
    for (size_t i = 0; i < source.size(); ++i) {
      write(offset(i), source[i]);
      source[i] = read(offset(i));
    }
  }
  void check(const Buffer& expected) const {
    const float tolerance = bfloat16_ ? 1e-2f : 1e-4f;
    for (size_t i = 0; i < expected.size(); ++i) {
      CHECK(std::abs(read(offset(i)) - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
    }
    const auto rows = static_cast<int64_t>(expected.size()) / shape_.back();
    const int64_t row = static_cast<int64_t>(memory_->size()) / rows;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = shape_.back(); j < row; ++j) CHECK(read(i * row + j) == kUnused);
    }
  }

 private:
  static constexpr float kUnused = 77;

  size_t offset(size_t i) const {
    const auto columns = static_cast<size_t>(shape_.back());
    const size_t row = memory_->size() / (elements(shape_) / columns);
    return i / columns * row + i % columns;
  }
  void write(size_t at, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const auto half = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    if (bfloat16_) {
      std::memcpy(reinterpret_cast<char*>(memory_->data()) + 2 * at, &half, 2);
    } else {
      (*memory_)[at] = value;
    }
  }
  float read(size_t at) const {
    if (!bfloat16_) return (*memory_)[at];
    uint16_t half;
    std::memcpy(&half, reinterpret_cast<const char*>(memory_->data()) + 2 * at, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }

  std::vector<int64_t> shape_, strides_;
  bool bfloat16_;
  std::unique_ptr<Buffer> memory_;
};

// Calls the kernel without a plan. Which operands (the output is the last) have gaps, which are
// bfloat16: a bit each.
void check_loose(const Family& family, size_t index, const TopLibraryKernels& library,
                 unsigned gaps, unsigned bfloat16) {
  const Op& op = family.ops[index];
  std::vector<Buffer> data;
  std::vector<LooseTensor> tensors;
  std::vector<DLTensor> specified;
  for (size_t i = 0; i <= op.operands.size(); ++i) {
    const bool is_out = i == op.operands.size();
    const auto& shape = is_out ? op.out_shape : op.operands[i].shape;
    const bool constant = !is_out && op.operands[i].constant;
    tensors.emplace_back(shape, constant || (gaps >> i & 1) == 0 ? 0 : 15,
                         (bfloat16 >> i & 1) != 0);
    if (!is_out) {
      data.emplace_back(elements(shape));
      data.back().randomise(static_cast<uint32_t>(13 * i + 1));
      tensors.back().fill(data.back());
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    specified.push_back(tensors[i].view(i < op.operands.size() && op.operands[i].constant));
  }
  Buffer expected(elements(op.out_shape));
  family.reference(op, data, expected);
  const LibraryKernel kernel =
      create_library_kernel(library, {"onednn", op.symbol, op.attributes}, specified, 1);
  const LibraryBinding binding = bind_library_kernel(library, kernel);
  std::vector<DLTensor> given;
  for (LooseTensor& tensor : tensors) given.push_back(tensor.view(true));
  std::vector<TVMFFIAny> args(given.size());
  for (size_t i = 0; i < given.size(); ++i) args[i].v_ptr = &given[i];
  CHECK(library.call(binding.get(), args.data(), static_cast<int32_t>(args.size()), nullptr) == 0);
  tensors.back().check(expected);
}

}  // namespace

void check_loose_tensors(const TopLibraryKernels& library) {
  for (unsigned gaps : {0u, 1u, 8u, 16u, 9u, 24u, 25u}) {
    for (unsigned bfloat16 : {0u, 1u | 2u, 1u | 2u | 8u | 16u}) {
      check_loose(convolutions(), 5, library, gaps, bfloat16);   // 1x1
      check_loose(convolutions(), 10, library, gaps, bfloat16);  // 3x3, groups
      check_loose(matmuls(), 2, library, gaps, bfloat16);
      check_loose(deconvolutions(), 1, library, gaps >> 1, bfloat16 & 3);
    }
  }
  for (unsigned gaps : {1u, 4u, 5u}) {
    check_loose(matmuls(), 5, library, gaps, 0);   // transposed A
    check_loose(matmuls(), 12, library, gaps, 0);  // heads
  }
  for (unsigned gaps : {0u, 1u, 2u, 3u}) {
    for (unsigned bfloat16 : {0u, 3u}) {
      check_loose(pools(), 0, library, gaps, bfloat16);
      check_loose(softmaxes(), 1, library, gaps, bfloat16);
      check_loose(local_response_norms(), 1, library, gaps, bfloat16);
    }
  }
}

}  // namespace top::testing
