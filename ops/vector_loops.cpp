#include "ops/vector_loops.h"

#include <limits>

// GCC 12 and Clang vectorise for AVX2 and AVX-512 alike; the sets between them and the baseline are not worth the code.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/vector_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>

#include "ops/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d{};

HWY_INLINE V constant(float value) { return hn::Set(d, value); }

// --- Functions: V f(V x, V a, V b) ---

#define GRAFT_UNARY(name, expression)                                                             \
  struct name {                                                                                   \
    static HWY_INLINE V f(V x, [[maybe_unused]] V a, [[maybe_unused]] V b) { return expression; } \
  };

HWY_INLINE V zero() { return hn::Zero(d); }
HWY_INLINE V one() { return constant(1); }
// min(max(x, low), high) that lets NaN through.
HWY_INLINE V clamp(V x, V low, V high) {
  V raised = hn::IfThenElse(hn::Lt(x, low), low, x);
  return hn::IfThenElse(hn::Gt(raised, high), high, raised);
}
HWY_INLINE V clamp01(V x) { return clamp(x, zero(), one()); }

// Highway's functions are defined on a part of the axis: these are the whole ones, NaN included.
HWY_INLINE V exp(V x) {
  const V largest = constant(88.7228F);
  V inside = hn::Exp(d, hn::Min(x, largest));
  V y = hn::IfThenElse(hn::Gt(x, largest), constant(std::numeric_limits<float>::infinity()), inside);
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}
HWY_INLINE V log(V x) {
  const V infinity = constant(std::numeric_limits<float>::infinity());
  V outside = hn::IfThenElse(hn::Eq(x, zero()), hn::Neg(infinity), constant(std::numeric_limits<float>::quiet_NaN()));
  V y = hn::IfThenElse(hn::Gt(x, zero()), hn::Log(d, x), outside);
  return hn::IfThenElse(hn::Eq(x, infinity), infinity, y);
}
HWY_INLINE V tanh(V x) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Tanh(d, x)); }

HWY_INLINE V sigmoid(V x) { return hn::Div(one(), hn::Add(one(), exp(hn::Neg(x)))); }
// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))
HWY_INLINE V softplus(V x) { return hn::Add(hn::Max(x, zero()), hn::Log1p(d, exp(hn::Neg(hn::Abs(x))))); }

HWY_INLINE V polynomial(V x, const float* c, int n) {
  V sum = constant(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) sum = hn::MulAdd(sum, x, constant(c[i]));
  return sum;
}

// |x| < 1: x * P(x^2); else 1 - exp(-x^2) * Q(t), t = 1 / (1 + |x|/2). Fits to double precision erf, error < 2e-7.
HWY_INLINE V erf(V x) {
  static const float small[] = {1.1283791F,    -0.37612626F,    0.11283597F,   -0.026854329F,
                                0.0051893122F, -0.00080188550F, 7.8824974e-05F};
  static const float large[] = {6.7372785e-06F, 0.28190604F, 0.28442302F,  0.23018710F, 0.25258741F,
                                -0.14927056F,   0.47035784F, -0.67327285F, 0.38577828F, -0.082727000F};
  V magnitude = hn::Abs(x);
  V square = hn::Mul(x, x);
  V near = hn::Mul(x, polynomial(square, small, sizeof small / sizeof *small));
  V t = hn::Div(one(), hn::MulAdd(magnitude, constant(0.5F), one()));
  V tail = hn::Mul(exp(hn::Neg(square)), polynomial(t, large, sizeof large / sizeof *large));
  V far = hn::CopySign(hn::Sub(one(), tail), x);
  return hn::IfThenElse(hn::Lt(magnitude, one()), near, far);
}

// With density = exp(-x^2/2): what the normal distribution has beyond |x|, density erfcx(t) / 2 with t = |x| / sqrt 2,
// where erfcx(t) = s R(s), s = 1 / (1 + 0.4 t). R is a minimax fit, relative error 1.3e-7.
HWY_INLINE V normal_tail(V x, V density) {
  static const float half_r[] = {0.112837933F,  0.112834804F, 0.103921287F,   0.084271565F, 0.07071308F,
                                 -0.002797358F, 0.084534213F, -0.0914449394F, 0.0251294765F};
  V s = hn::Div(one(), hn::MulAdd(hn::Abs(x), constant(0.28284271F), one()));
  return hn::Mul(hn::Mul(density, s), polynomial(s, half_r, sizeof half_r / sizeof *half_r));
}
HWY_INLINE V normal_density(V x) { return exp_nonpositive(d, hn::Mul(hn::Mul(x, x), constant(-0.5F))); }
HWY_INLINE V normal_below(V x, V density) {
  V tail = normal_tail(x, density);
  return hn::IfThenElse(hn::Gt(x, zero()), hn::Sub(one(), tail), tail);
}
HWY_INLINE V gelu(V x) { return hn::Mul(x, normal_below(x, normal_density(x))); }
// Far outside the slope is 0 or 1, at infinity too.
HWY_INLINE V gelu_slope(V x) {
  x = clamp(x, constant(-20), constant(20));
  V density = normal_density(x);
  return hn::MulAdd(hn::Mul(x, constant(0.39894228F)), density, normal_below(x, density));
}

// (1 + tanh u)/2 = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
constexpr float tanh_slope = 1.5957691F, tanh_cubic = 0.044715F;  // of 2u
HWY_INLINE V tanh_sigmoid(V x) {
  V inner = hn::MulAdd(hn::Mul(x, x), constant(tanh_slope * tanh_cubic), constant(tanh_slope));
  return sigmoid(hn::Mul(x, inner));
}
HWY_INLINE V gelu_tanh_slope(V x) {
  x = clamp(x, constant(-20), constant(20));
  V h = tanh_sigmoid(x);
  V inner = hn::MulAdd(hn::Mul(x, x), constant(3 * tanh_slope * tanh_cubic), constant(tanh_slope));
  return hn::MulAdd(hn::Mul(hn::Mul(x, h), hn::Sub(one(), h)), inner, h);
}

// exp(x) - 1 where x < 0, else 0: never inf, so that products with it stay finite.
HWY_INLINE V expm1_negative(V x) { return hn::Expm1(d, hn::Min(x, zero())); }

GRAFT_UNARY(Relu, hn::IfThenElse(hn::Lt(x, zero()), zero(), x))  // NaN stays
GRAFT_UNARY(LeakyRelu, hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(a, x), x))
GRAFT_UNARY(ThresholdedRelu, hn::IfThenElseZero(hn::Gt(x, a), x))
GRAFT_UNARY(Elu, hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(a, expm1_negative(x)), x))
GRAFT_UNARY(Selu, hn::Mul(b, hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(a, expm1_negative(x)), x)))
GRAFT_UNARY(Celu, hn::IfThenElse(hn::Lt(x, zero()), hn::Mul(a, expm1_negative(hn::Div(x, a))), x))
GRAFT_UNARY(Sigmoid, sigmoid(x))
GRAFT_UNARY(HardSigmoid, clamp01(hn::MulAdd(a, x, b)))
GRAFT_UNARY(HardSwish, hn::Mul(x, clamp01(hn::MulAdd(a, x, b))))
GRAFT_UNARY(Tanh, tanh(x))
GRAFT_UNARY(Exp, exp(x))
GRAFT_UNARY(Log, log(x))
GRAFT_UNARY(Sqrt, hn::Sqrt(x))
GRAFT_UNARY(Reciprocal, hn::Div(one(), x))
GRAFT_UNARY(Abs, hn::Abs(x))
GRAFT_UNARY(Neg, hn::Neg(x))
GRAFT_UNARY(Floor, hn::Floor(x))
GRAFT_UNARY(Ceil, hn::Ceil(x))
GRAFT_UNARY(Round, hn::Round(x))
GRAFT_UNARY(Erf, erf(x))
GRAFT_UNARY(Softplus, softplus(x))
GRAFT_UNARY(Softsign, hn::Div(x, hn::Add(one(), hn::Abs(x))))
GRAFT_UNARY(Mish, hn::Mul(x, tanh(softplus(x))))
GRAFT_UNARY(Swish, hn::Mul(x, sigmoid(hn::Mul(a, x))))
GRAFT_UNARY(Clip, clamp(x, a, b))
GRAFT_UNARY(Gelu, gelu(x))
GRAFT_UNARY(GeluTanh, hn::Mul(x, tanh_sigmoid(x)))
#undef GRAFT_UNARY

// --- Derivatives times dy: V f(V dy, V s, V a, V b) ---

#define GRAFT_GRAD(name, expression)                                                                    \
  struct name {                                                                                         \
    static HWY_INLINE V f(V dy, V s, [[maybe_unused]] V a, [[maybe_unused]] V b) { return expression; } \
  };

GRAFT_GRAD(ReluGrad, hn::IfThenElseZero(hn::Gt(s, zero()), dy))
GRAFT_GRAD(LeakyReluGrad, hn::IfThenElse(hn::Gt(s, zero()), dy, hn::Mul(a, dy)))
GRAFT_GRAD(SigmoidGrad, hn::Mul(dy, hn::Mul(s, hn::Sub(one(), s))))
GRAFT_GRAD(TanhGrad, hn::Mul(dy, hn::NegMulAdd(s, s, one())))
GRAFT_GRAD(GeluGrad, hn::Mul(dy, gelu_slope(s)))
GRAFT_GRAD(GeluTanhGrad, hn::Mul(dy, gelu_tanh_slope(s)))
GRAFT_GRAD(ClipGrad, hn::IfThenElseZero(hn::And(hn::Gt(s, a), hn::Lt(s, b)), dy))

HWY_INLINE V hard_sigmoid_slope(V inner, V dy) {
  return hn::IfThenElseZero(hn::And(hn::Gt(inner, zero()), hn::Lt(inner, one())), dy);
}
GRAFT_GRAD(HardSigmoidGrad, hn::Mul(a, hard_sigmoid_slope(hn::MulAdd(a, s, b), dy)))
// (x h(x))' = h(x) + x h'(x), h the hard sigmoid; x may be infinite
GRAFT_GRAD(HardSwishGrad, hn::MulAdd(dy, clamp01(hn::MulAdd(a, s, b)),
                                     hard_sigmoid_slope(hn::MulAdd(a, s, b), hn::Mul(hn::Mul(a, s), dy))))
#undef GRAFT_GRAD

// Elements: processors foresee what is read next, but not beyond a page, and arithmetic leaves memory idle meanwhile.
constexpr int64_t ahead = 1024;

template <class F>
void unary(const float* x, float* y, int64_t n, float a, float b) {
  const V va = constant(a);
  const V vb = constant(b);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hwy::Prefetch(x + i + ahead);
    hn::StoreU(F::f(hn::LoadU(d, x + i), va, vb), d, y + i);
  }
  if (i == n) return;
  HWY_ALIGN float rest[hn::MaxLanes(d)] = {};
  for (int64_t k = i; k < n; ++k) rest[k - i] = x[k];
  hn::Store(F::f(hn::Load(d, rest), va, vb), d, rest);
  for (int64_t k = i; k < n; ++k) y[k] = rest[k - i];
}

template <class F>
void activation_grad(const float* dy, const float* s, float* dx, int64_t n, float a, float b) {
  const V va = constant(a);
  const V vb = constant(b);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hwy::Prefetch(dy + i + ahead);
    hwy::Prefetch(s + i + ahead);
    hn::StoreU(F::f(hn::LoadU(d, dy + i), hn::LoadU(d, s + i), va, vb), d, dx + i);
  }
  if (i == n) return;
  HWY_ALIGN float rest[hn::MaxLanes(d)] = {};
  HWY_ALIGN float rest_s[hn::MaxLanes(d)] = {};
  for (int64_t k = i; k < n; ++k) {
    rest[k - i] = dy[k];
    rest_s[k - i] = s[k];
  }
  hn::Store(F::f(hn::Load(d, rest), hn::Load(d, rest_s), va, vb), d, rest);
  for (int64_t k = i; k < n; ++k) dx[k] = rest[k - i];
}

UnaryLoop find_unary(std::string_view type) {
  static constexpr struct {
    std::string_view type;
    UnaryLoop loop;
  } rows[] = {
#define GRAFT_ROW(name) {#name, unary<name>}
      GRAFT_ROW(Relu),     GRAFT_ROW(LeakyRelu),   GRAFT_ROW(ThresholdedRelu),
      GRAFT_ROW(Elu),      GRAFT_ROW(Selu),        GRAFT_ROW(Celu),
      GRAFT_ROW(Sigmoid),  GRAFT_ROW(HardSigmoid), GRAFT_ROW(HardSwish),
      GRAFT_ROW(Tanh),     GRAFT_ROW(Exp),         GRAFT_ROW(Log),
      GRAFT_ROW(Sqrt),     GRAFT_ROW(Reciprocal),  GRAFT_ROW(Abs),
      GRAFT_ROW(Neg),      GRAFT_ROW(Floor),       GRAFT_ROW(Ceil),
      GRAFT_ROW(Round),    GRAFT_ROW(Erf),         GRAFT_ROW(Softplus),
      GRAFT_ROW(Softsign), GRAFT_ROW(Mish),        GRAFT_ROW(Swish),
      GRAFT_ROW(Clip),     GRAFT_ROW(Gelu),        GRAFT_ROW(GeluTanh),
#undef GRAFT_ROW
  };
  for (const auto& row : rows) {
    if (row.type == type) return row.loop;
  }
  return nullptr;
}

ActivationGradLoop find_activation_grad(std::string_view type) {
  static constexpr struct {
    std::string_view type;
    ActivationGradLoop loop;
  } rows[] = {
#define GRAFT_ROW(name) {#name, activation_grad<name>}
      GRAFT_ROW(ReluGrad),      GRAFT_ROW(LeakyReluGrad), GRAFT_ROW(SigmoidGrad),
      GRAFT_ROW(TanhGrad),      GRAFT_ROW(ClipGrad),      GRAFT_ROW(HardSigmoidGrad),
      GRAFT_ROW(HardSwishGrad), GRAFT_ROW(GeluGrad),      GRAFT_ROW(GeluTanhGrad),
#undef GRAFT_ROW
  };
  for (const auto& row : rows) {
    if (row.type == type) return row.loop;
  }
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace graft
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(find_unary);
HWY_EXPORT(find_activation_grad);

UnaryLoop unary_loop(std::string_view type) { return HWY_DYNAMIC_DISPATCH(find_unary)(type); }
ActivationGradLoop activation_grad_loop(std::string_view type) {
  return HWY_DYNAMIC_DISPATCH(find_activation_grad)(type);
}

}  // namespace graft
#endif
