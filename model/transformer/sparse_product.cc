#include "model/transformer/sparse_product.h"

#include <cstring>

namespace heddle::model {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

constexpr size_t kVectorBytes = 16;  // what every processor has; also of a sum, so that its order is part of the source
constexpr int64_t kPerThread = 512;  // rows worth a thread

template <typename T>
struct Vector {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(T);
  static Type Load(const T* from) {
    Type out;
    std::memcpy(&out, from, sizeof out);
    return out;
  }
};

// y += v * x.
template <typename T>
void AddScaled(T v, const T* x, T* y, int64_t count) {
  int64_t t = 0;
  for (; t + Vector<T>::kLanes <= count; t += Vector<T>::kLanes) {
    const typename Vector<T>::Type sum = Vector<T>::Load(y + t) + v * Vector<T>::Load(x + t);
    std::memcpy(y + t, &sum, sizeof sum);
  }
  for (; t < count; ++t) y[t] += v * x[t];
}

template <typename T>
T Dot(const T* a, const T* b, int64_t count) {
  typename Vector<T>::Type lanes = {};
  int64_t t = 0;
  for (; t + Vector<T>::kLanes <= count; t += Vector<T>::kLanes)
    lanes += Vector<T>::Load(a + t) * Vector<T>::Load(b + t);
  T sum = 0;
  for (int64_t lane = 0; lane < Vector<T>::kLanes; ++lane) sum += lanes[lane];
  for (; t < count; ++t) sum += a[t] * b[t];
  return sum;
}

// Lines are columns of rows^T: for each place (i, j), to[i] += value * from[j], or the other way about.
template <typename T>
void AddLines(const Tensor& from, const Tensor& values, const Tensor& places, int64_t in, bool transposed, Tensor* to) {
  const int64_t length = from.size(1), count = values.numel();
  const T* source = from.data_ptr<T>();
  const T* value = values.data_ptr<T>();
  const int64_t* place = places.data_ptr<int64_t>();
  T* sum = to->data_ptr<T>();
  at::parallel_for(0, length, kPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < count; ++n) {
      const int64_t i = place[n] / in, j = place[n] % in;
      const T* x = source + (transposed ? i : j) * length;
      T* y = sum + (transposed ? j : i) * length;
      AddScaled(value[n], x + begin, y + begin, end - begin);
    }
  });
}

// The gradient of each value: the product of its two lines.
template <typename T>
Tensor LineProducts(const Tensor& grads, const Tensor& columns, const Tensor& places, int64_t in) {
  const int64_t length = grads.size(1), count = places.numel();
  Tensor out = torch::empty({count}, grads.options());
  const T *g = grads.data_ptr<T>(), *x = columns.data_ptr<T>();
  const int64_t* place = places.data_ptr<int64_t>();
  T* to = out.data_ptr<T>();
  at::parallel_for(0, count, kPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* a = g + place[n] / in * length;
      const T* b = x + place[n] % in * length;
      to[n] = Dot(a, b, length);
    }
  });
  return out;
}

Tensor Dense(const Tensor& values, const Tensor& places, int64_t out, int64_t in) {
  Tensor dense = torch::zeros({out * in}, values.options());
  dense.index_copy_(0, places.to(values.device()), values);
  return dense.view({out, in});
}

struct PlacedProduct : Function<PlacedProduct> {
  static Tensor forward(AutogradContext* ctx, const Tensor& rows, const Tensor& values, const Tensor& places,
                        int64_t out) {
    ctx->save_for_backward({rows, values, places});
    const int64_t in = rows.size(1);
    if (!rows.is_cpu()) return at::mm(rows, Dense(values.to(rows.scalar_type()), places, out, in).t());
    const auto type = rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor lines = rows.to(type).t().contiguous(), v = values.detach().to(type);
    Tensor sum = torch::zeros({out, rows.size(0)}, lines.options());
    type == at::kDouble ? AddLines<double>(lines, v, places, in, false, &sum)
                        : AddLines<float>(lines, v, places, in, false, &sum);
    return sum.t().to(rows.scalar_type()).contiguous();
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &rows = saved[0], &values = saved[1], &places = saved[2];
    const int64_t in = rows.size(1), out = grads[0].size(1);
    const bool of_rows = ctx->needs_input_grad(0), of_values = ctx->needs_input_grad(1);
    Tensor row_grad, value_grad;
    if (!rows.is_cpu()) {
      if (of_rows) row_grad = at::mm(grads[0], Dense(values.to(rows.scalar_type()), places, out, in));
      if (of_values) {
        const Tensor whole = at::mm(grads[0].t(), rows).view({-1});
        value_grad = whole.index_select(0, places.to(rows.device())).to(values.scalar_type());
      }
      return {row_grad, value_grad, Tensor(), Tensor()};
    }
    const auto type = rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const Tensor g = grads[0].to(type).t().contiguous();
    if (of_rows) {
      const Tensor v = values.detach().to(type);
      row_grad = torch::zeros({in, rows.size(0)}, g.options());
      type == at::kDouble ? AddLines<double>(g, v, places, in, true, &row_grad)
                          : AddLines<float>(g, v, places, in, true, &row_grad);
      row_grad = row_grad.t().to(rows.scalar_type()).contiguous();
    }
    if (of_values) {
      const Tensor lines = rows.to(type).t().contiguous();
      value_grad =
          type == at::kDouble ? LineProducts<double>(g, lines, places, in) : LineProducts<float>(g, lines, places, in);
      value_grad = value_grad.to(values.scalar_type());
    }
    return {row_grad, value_grad, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor SparseProduct(const Tensor& rows, const SparseWeight& weight, int64_t out) {
  return PlacedProduct::apply(rows, weight.values, weight.places, out);
}

void AddTo(const SparseWeight& weight, Tensor* dense) {
  const at::NoGradGuard no_grad;
  const Tensor flat = dense->view({-1});
  flat.index_add_(0, weight.places.to(dense->device()), weight.values.detach().to(dense->scalar_type()));
}

}  // namespace heddle::model
