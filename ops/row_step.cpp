#include "ops/row_step.h"

#include <numeric>

namespace graft {

void infer_row_step(Node& node) {
  const Value* indices = node.inputs.empty() ? nullptr : node.inputs.back();
  if (!indices || (indices->dtype != DType::i64 && indices->dtype != DType::i32))
    throw ModelError(node.where(), " wants int64 or int32 indices as its last operand");
  const Value* w = node.input(0);
  if (!w || w->dims.empty()) throw ModelError(node.where(), " wants a parameter of rows");
  Dims picked = indices->dims;
  picked.insert(picked.end(), w->dims.begin() + 1, w->dims.end());
  infer_step(node, picked, node.inputs.size() - 1);
}

Settlement settle_row_step(const Node& node, const Settlement* forward) {
  Settlement settlement = settle_step(node, forward);
  settlement.scratch_bytes = checked_add(settlement.scratch_bytes, row_order_bytes(node));
  return settlement;
}

int64_t row_order_bytes(const Node& node) {
  constexpr int64_t line = 64;
  return checked_add(checked_mul(2, byte_count(DType::i64, node.inputs.back()->dims)), line - 1) / line * line;
}

RowOrder::RowOrder(const Node& node, const Binding& binding)
    : indices_(node, node.inputs.size() - 1),
      given_(binding.inputs.back()),
      rows_(node.inputs[0]->dims[0]),
      width_(1),
      row_of_(static_cast<int64_t*>(binding.scratch)),
      order_(row_of_ + indices_.count()) {
  const Dims& dims = node.inputs[0]->dims;
  for (size_t d = 1; d < dims.size(); ++d) width_ *= dims[d];
}

void RowOrder::update() const {
  indices_.resolve(given_, rows_, row_of_);
  std::iota(order_, order_ + count(), int64_t{0});
  std::sort(order_, order_ + count(), [row_of = row_of_](int64_t a, int64_t b) {
    return row_of[a] != row_of[b] ? row_of[a] < row_of[b] : a < b;
  });
}

int64_t RowOrder::before(int64_t row) const {
  auto picks_less = [this](int64_t position, int64_t wanted) { return row_of_[position] < wanted; };
  return std::lower_bound(order_, order_ + count(), row, picks_less) - order_;
}

int64_t RowOrder::element_at(int64_t work, int64_t each) const {
  if (work >= this->work(rows_, each)) return rows_ * width_;
  // The last row that begins at `work` or before it.
  int64_t row = 0;
  for (int64_t behind = rows_; row + 1 < behind;) {
    const int64_t middle = row + (behind - row) / 2;
    (this->work(middle, each) <= work ? row : behind) = middle;
  }
  const int64_t start = this->work(row, each), of_column = (this->work(row + 1, each) - start) / width_;
  return row * width_ + (work - start) / of_column;
}

}  // namespace graft
