#include "model/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <unordered_set>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_members.h"
#include "model/tokenizer/unicode.h"

namespace heddle::model {
namespace {

using Piece = SentencePieceModel::Piece;

constexpr size_t kMaxPieceBytes = 512;  // the longest real ones have a tenth; bounds what a text may cost

Status Broken(std::string_view what) {
  return InvalidArgument("the SentencePiece model " + std::string(what) + ": is the file whole?");
}

// The fields of a protocol buffer in order. Next() is false at the end and after an error, which `ok` tells apart.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}

  bool Next() {
    if (rest_.empty() || !ok_) return false;
    uint64_t key = 0;
    if (!TakeVarint(&key)) return false;
    number_ = key >> 3;
    switch (key & 7U) {
      case 0:
        return TakeVarint(&value_);
      case 1:
        return TakeFixed(8);
      case 2: {
        uint64_t size = 0;
        if (!TakeVarint(&size)) return false;
        if (size > rest_.size()) return ok_ = false;
        bytes_ = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
      }
      case 5:
        return TakeFixed(4);
      default:
        return ok_ = false;  // groups were never used in these files
    }
  }
  bool ok() const { return ok_; }
  uint64_t number() const { return number_; }
  uint64_t value() const { return value_; }  // of a number or a fixed one
  std::string_view bytes() const { return bytes_; }

 private:
  bool TakeVarint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7FU) << shift;
      if (byte < 0x80) return true;
    }
    return ok_ = false;
  }
  bool TakeFixed(size_t size) {
    if (rest_.size() < size) return ok_ = false;
    value_ = 0;
    for (size_t i = size; i-- > 0;) value_ = value_ << 8 | static_cast<uint8_t>(rest_[i]);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_, bytes_;
  uint64_t number_ = 0, value_ = 0;
  bool ok_ = true;
};

Status ReadPiece(std::string_view bytes, SentencePieceModel* model) {
  const auto id = static_cast<int64_t>(model->pieces.size());
  if (id >= kMaxTokenId) return Broken("has more pieces than " + std::to_string(kMaxTokenId));
  Piece piece;
  uint64_t kind = 1;
  Fields fields(bytes);
  while (fields.Next()) {
    if (fields.number() == 1) piece.text = fields.bytes();
    if (fields.number() == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(fields.value()));
    if (fields.number() == 3) kind = fields.value();
  }
  if (!fields.ok()) return Broken("is cut short in piece " + std::to_string(id));
  const bool legal = !piece.text.empty() && piece.text.size() <= kMaxPieceBytes && IsValidUtf8(piece.text) &&
                     piece.text.find('\0') == std::string::npos && std::isfinite(piece.score) &&
                     std::abs(piece.score) < 1e30F && kind >= 1 && kind <= 6;
  if (!legal) {
    return Broken("has a piece (" + std::to_string(id) +
                  ") that is empty, longer than 512 bytes, not UTF-8, or of a kind or score that there is not");
  }
  piece.kind = static_cast<Piece::Kind>(kind);
  if (piece.kind == Piece::Kind::kUnknown) {
    if (model->unknown >= 0) return Broken("has two unknown pieces");
    model->unknown = static_cast<int32_t>(id);
  }
  model->pieces.push_back(std::move(piece));
  return OkStatus();
}

struct TrainerNames {
  uint64_t type = 1;
  std::string bos = "<s>", eos = "</s>", pad = "<pad>";
};

Status ReadTrainer(std::string_view bytes, TrainerNames* names, SentencePieceModel* model) {
  Fields fields(bytes);
  while (fields.Next()) {
    switch (fields.number()) {
      case 3:
        names->type = fields.value();
        break;
      case 24:
        model->whitespace_as_suffix = fields.value() != 0;
        break;
      case 35:
        model->byte_fallback = fields.value() != 0;
        break;
      case 44:
        model->unknown_surface = fields.bytes();
        break;
      case 46:
        names->bos = fields.bytes();
        break;
      case 47:
        names->eos = fields.bytes();
        break;
      case 48:
        names->pad = fields.bytes();
        break;
      default:
        break;
    }
  }
  if (!fields.ok()) return Broken("is cut short in its trainer's settings");
  if (model->unknown_surface.size() > kMaxPieceBytes) return Broken("has a text of over 512 bytes for what is unknown");
  return OkStatus();
}

Status ReadNormalizer(std::string_view bytes, SentencePieceModel* model) {
  Fields fields(bytes);
  std::string_view charsmap;
  while (fields.Next()) {
    switch (fields.number()) {
      case 2:
        charsmap = fields.bytes();
        break;
      case 3:
        model->add_dummy_prefix = fields.value() != 0;
        break;
      case 4:
        model->remove_extra_whitespaces = fields.value() != 0;
        break;
      case 5:
        model->escape_whitespaces = fields.value() != 0;
        break;
      default:
        break;
    }
  }
  if (!fields.ok()) return Broken("is cut short in its normalizer's settings");
  if (charsmap.empty()) return OkStatus();
  HEDDLE_ASSIGN_OR_RETURN(model->charsmap, CharsMap::FromBytes(charsmap));
  return OkStatus();
}

Status CheckNoDenormalizer(std::string_view bytes) {
  Fields fields(bytes);
  while (fields.Next()) {
    if (fields.number() == 2 && !fields.bytes().empty())
      return Unimplemented("the SentencePiece model has a denormalizer, which is not supported");
  }
  return fields.ok() ? OkStatus() : Broken("is cut short in its denormalizer's settings");
}

Status CheckPieces(const TrainerNames& names, SentencePieceModel* model) {
  if (model->unknown < 0) return Broken("has no unknown piece");
  // Pieces of the text, and those that are none, have names of their own.
  std::unordered_set<std::string_view> texts, reserved;
  std::vector<bool> bytes(256, false);
  for (size_t id = 0; id < model->pieces.size(); ++id) {
    const Piece& piece = model->pieces[id];
    using Kind = Piece::Kind;
    const bool of_text = piece.kind == Kind::kNormal || piece.kind == Kind::kUserDefined || piece.kind == Kind::kUnused;
    if (!(of_text ? texts : reserved).insert(piece.text).second)
      return Broken("has the piece \"" + Shorten(piece.text) + "\" twice");
    if (piece.kind == Kind::kByte) {
      const std::optional<uint8_t> byte = ByteOfToken(piece.text);
      if (!model->byte_fallback || !byte) return Broken("has the byte \"" + Shorten(piece.text) + "\" out of place");
      bytes[*byte] = true;
    }
    if (piece.kind != Kind::kControl) continue;
    if (piece.text == names.bos) model->bos = static_cast<int32_t>(id);
    if (piece.text == names.eos) model->eos = static_cast<int32_t>(id);
    if (piece.text == names.pad) model->pad = static_cast<int32_t>(id);
  }
  for (int b = 0; model->byte_fallback && b < 256; ++b) {
    if (!bytes[static_cast<size_t>(b)]) return Broken("lacks the piece of byte " + std::to_string(b));
  }
  return OkStatus();
}

}  // namespace

Result<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  TrainerNames names;
  Fields fields(bytes);
  while (fields.Next()) {
    Status status;
    if (fields.number() == 1) status = ReadPiece(fields.bytes(), &model);
    if (fields.number() == 2) status = ReadTrainer(fields.bytes(), &names, &model);
    if (fields.number() == 3) status = ReadNormalizer(fields.bytes(), &model);
    if (fields.number() == 5) status = CheckNoDenormalizer(fields.bytes());
    HEDDLE_RETURN_IF_ERROR(status);
  }
  if (!fields.ok()) return Broken("is cut short, or no protocol buffer");
  if (names.type != 1 && names.type != 2) {
    return Unimplemented(std::string("a SentencePiece model of type ") +
                         (names.type == 3   ? "WORD"
                          : names.type == 4 ? "CHAR"
                                            : std::to_string(names.type)) +
                         " is not supported (only UNIGRAM and BPE)");
  }
  model.type = static_cast<SentencePieceModel::Type>(names.type);
  HEDDLE_RETURN_IF_ERROR(CheckPieces(names, &model));
  return model;
}

}  // namespace heddle::model
