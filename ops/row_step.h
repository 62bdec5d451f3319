// The step of a table whose gradient is that of rows picked from it:
//   (w, dy, scale, lr, step, moments..., indices) -> (w', moments'...)
// w = (rows, ...), dy = (indices..., ...). The result is, bit for bit, that of the step with the gradient
// GatherGrad(dy, indices), which is never there as a whole.
#pragma once

#include <algorithm>
#include <array>

#include "ops/indices.h"
#include "ops/optimiser.h"

namespace graft {

void infer_row_step(Node& node);
Settlement settle_row_step(const Node& node, const Settlement* forward);

// Of the scratch of such a node; what moments need lies behind them.
int64_t row_order_bytes(const Node& node);
template <class T>
Moments<T> moments_of_rows(const Node& node, const Binding& binding) {
  return {node, binding, static_cast<std::byte*>(binding.scratch) + row_order_bytes(node)};
}

// Positions in the list of indices, ordered by the row that they pick, then as they come.
class RowOrder {
 public:
  RowOrder(const Node& node, const Binding& binding);

  // Reads the indices of this step. DataError for one that is no row.
  void update() const;

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }  // elements of a row
  int64_t count() const { return indices_.count(); }
  int64_t position(int64_t k) const { return order_[k]; }
  int64_t row(int64_t k) const { return row_of_[order_[k]]; }
  // How many positions pick rows before `row`.
  int64_t before(int64_t row) const;

  // Work is what threads share: an element of the table costs `each`, and one for every position that picks its row.
  int64_t work(int64_t row, int64_t each) const { return width_ * (each * row + before(row)); }
  // The first element of the table behind `work`.
  int64_t element_at(int64_t work, int64_t each) const;

 private:
  Indices indices_;
  const void* given_;
  int64_t rows_, width_;
  int64_t *row_of_, *order_;  // scratch
};

// The gradient of a table, a piece at a time.
template <class T>
class RowGradient {
 public:
  RowGradient(const Node& node, const Binding& binding) : order_(node, binding), dy_(binding.in<T>(1)) {}

  // Calls step(g, begin, end, piece) with the gradients and the moments of elements [begin, end) of the table, from
  // several threads: once for every element, or, with `touched_only`, for those of the rows that an index picks. `cost`
  // is that of an element.
  template <class Step>
  void run(const Moments<T>& moments, bool touched_only, int64_t cost, const Step& step) const {
    order_.update();
    const int64_t each = touched_only ? 0 : cost;
    auto element_at = [&](int64_t work) { return order_.element_at(work, each); };
    moments.run(order_.work(order_.rows(), each), 1, element_at,
                [&](int64_t first, int64_t last, const MomentPiece<T>& piece) {
                  run_part(touched_only, first, last,
                           [&](const T* g, int64_t begin, int64_t end) { step(g, begin, end, piece); });
                });
  }

 private:
  template <class Step>
  void run_part(bool touched_only, int64_t begin, int64_t end, const Step& step) const {
    constexpr int64_t piece = 1024;
    alignas(64) std::array<T, piece> g;
    const int64_t width = order_.width();
    int64_t k = begin < end ? order_.before(begin / width) : 0;
    while (begin < end) {
      int64_t stop = std::min(begin + piece, end);
      if (touched_only) {
        if (k == order_.count()) return;
        begin = std::max(begin, order_.row(k) * width);
        stop = std::min({begin + piece, (order_.row(k) + 1) * width, end});
        if (begin >= stop) return;
      }
      std::fill_n(g.data(), stop - begin, T{0});
      for (int64_t j = k; j < order_.count() && order_.row(j) * width < stop; ++j) add(j, begin, stop, g.data());
      step(g.data(), begin, stop);
      while (k < order_.count() && (order_.row(k) + 1) * width <= stop) ++k;
      begin = stop;
    }
  }

  // Adds the row of dy at position j of the order to g, as far as it lies in [begin, end) of the table. Every sum has
  // the order of GatherGrad, zero first.
  void add(int64_t j, int64_t begin, int64_t end, T* g) const {
    const int64_t width = order_.width(), start = order_.row(j) * width;
    const int64_t first = std::max(begin, start), last = std::min(end, start + width);
    const T* from = dy_ + order_.position(j) * width + (first - start);
    T* to = g + (first - begin);
    for (int64_t i = 0; i < last - first; ++i) to[i] += from[i];
  }

  RowOrder order_;
  const T* dy_;
};

}  // namespace graft
