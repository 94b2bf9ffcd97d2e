#include "aggregation/compression/block_selection.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "common/dotted_name.h"

namespace heddle::compression {
namespace {

double SquaresOf(const Tensor& tensor, const Tensor* residual) {
  const auto values = tensor.values<float>();
  const float* more = residual == nullptr ? nullptr : residual->values<float>().data();
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = more == nullptr ? values[i] : values[i] + more[i];
    sum += value * value;
  }
  return sum;
}

uint64_t AllValues(const std::vector<Block>& blocks) {
  return std::accumulate(blocks.begin(), blocks.end(), uint64_t{0},
                         [](uint64_t sum, const Block& block) { return sum + block.values; });
}

}  // namespace

std::vector<Block> BlocksOf(const StateDictSpec& spec) {
  std::vector<Block> blocks;
  std::map<uint32_t, size_t> of_layer;
  for (const auto& [name, tensor] : spec) {
    const auto layer = FirstNumber(name);
    size_t place = blocks.size();
    if (layer) place = of_layer.emplace(*layer, place).first->second;
    if (place == blocks.size()) blocks.emplace_back();
    blocks[place].names.push_back(name);
    const auto count = NumElements(tensor.shape);
    blocks[place].values += count.ok() ? static_cast<uint64_t>(*count) : 0;
  }
  return blocks;
}

uint64_t BlockBudget(uint64_t values, uint32_t millionths) { return values * millionths / 1'000'000; }

uint64_t KeptBlocksBytes(size_t blocks) { return (blocks + 7) / 8; }

KeptNames AppendKeptBlocks(const std::vector<Block>& blocks, const StateDict& update, const StateDict* residual,
                           uint32_t millionths, std::string* out) {
  std::vector<double> importance;
  for (const Block& block : blocks) {
    double squares = 0;
    for (const std::string& name : block.names) {
      squares += SquaresOf(update.find(name)->second, residual == nullptr ? nullptr : &residual->find(name)->second);
    }
    const double size = block.values == 0 ? 0 : std::sqrt(squares) / static_cast<double>(block.values);
    importance.push_back(std::isfinite(size) ? size : 0);  // the caller refuses such values
  }
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return importance[a] > importance[b]; });
  uint64_t left = BlockBudget(AllValues(blocks), millionths);
  KeptNames kept;
  std::string bitmap(KeptBlocksBytes(blocks.size()), '\0');
  for (const size_t block : order) {
    if (blocks[block].values > left) continue;
    left -= blocks[block].values;
    kept.insert(blocks[block].names.begin(), blocks[block].names.end());
    bitmap[block / 8] = static_cast<char>(static_cast<unsigned char>(bitmap[block / 8]) | 1U << block % 8);
  }
  *out += bitmap;
  return kept;
}

Result<KeptNames> ReadKeptBlocks(const std::vector<Block>& blocks, uint32_t millionths,
                                 std::span<const std::byte>* in) {
  const uint64_t bytes = KeptBlocksBytes(blocks.size());
  if (in->size() < bytes) return InvalidArgument("the list of kept blocks is cut off");
  KeptNames kept;
  uint64_t left = BlockBudget(AllValues(blocks), millionths);
  for (size_t bit = 0; bit < 8 * bytes; ++bit) {
    if ((static_cast<unsigned>((*in)[bit / 8]) >> bit % 8 & 1U) == 0) continue;
    if (bit >= blocks.size()) return InvalidArgument("there are bits set behind the last block");
    if (blocks[bit].values > left) return InvalidArgument("the kept blocks have more values than the share allows");
    left -= blocks[bit].values;
    kept.insert(blocks[bit].names.begin(), blocks[bit].names.end());
  }
  *in = in->subspan(bytes);
  return kept;
}

}  // namespace heddle::compression
