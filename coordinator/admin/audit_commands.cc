// heddle audit: what the chain of the audit log says, and whether it is whole.
#include <boost/json.hpp>
#include <optional>
#include <ostream>
#include <string>

#include "coordinator/admin/commands.h"
#include "coordinator/audit/audit_check.h"

namespace heddle::coordinator {
namespace {

namespace json = boost::json;

std::string Sentence(const AuditFault& fault) {
  return fault.file + (fault.line > 0 ? ", line " + std::to_string(fault.line) : "") + ": " + fault.what;
}

// One line for people. Damaged lines are shown as they are, but for bytes that a terminal would act on.
std::string Readable(const std::string& line) {
  const auto record = ParseRecord(line);
  if (!record.ok()) {
    std::string shown;
    for (const char c : line.substr(0, 400)) shown += c >= 0x20 && c <= 0x7e ? c : '?';
    return "(damaged) " + shown;
  }
  const AuditEvent& event = record->event;
  const auto clean = [](std::string text) {
    for (char& c : text) c = c >= 0x20 && c <= 0x7e ? c : '?';
    return text;
  };
  std::string out = std::to_string(record->sequence) + "  " + AuditTimeText(record->time) + "  ";
  out += AuditKindName(event.kind);
  if (event.count > 1) out += " x" + std::to_string(event.count);
  out += "  " + clean(event.outcome);
  if (!event.object.empty()) out += "  " + clean(event.object);
  if (!event.actor.empty()) out += "  by " + clean(event.actor);
  if (!event.from.empty()) out += "  from " + clean(event.from);
  if (!event.detail.empty()) out += "  (" + clean(event.detail) + ")";
  return out;
}

}  // namespace

Status AuditVerify(const CommandContext& context, const std::string& expected) {
  std::optional<AuditAnchor> anchor;
  if (!expected.empty()) {
    HEDDLE_ASSIGN_OR_RETURN(anchor, AuditAnchor::Parse(expected));
  }
  HEDDLE_ASSIGN_OR_RETURN(const AuditReport report, CheckAudit(context.config.audit(), anchor));
  if (context.json) {
    json::object out = {{"whole", !report.fault.has_value()},
                        {"lines", report.lines},
                        {"repairs", report.repairs},
                        {"head", report.last.ToString()}};
    if (report.fault) {
      out["fault"] = {{"file", report.fault->file}, {"line", report.fault->line}, {"what", report.fault->what}};
    }
    *context.out << json::serialize(out) << "\n";
  }
  if (report.fault) {
    return DataLoss("the audit log in " + context.config.audit().string() +
                    " is not whole: " + Sentence(*report.fault));
  }
  if (context.json) return OkStatus();
  *context.out << "The chain is whole: " << report.lines << " lines";
  if (report.repairs > 0) *context.out << ", " << report.repairs << " of them about a damaged end that was taken up";
  *context.out << "\nhead  " << report.last.ToString() << "\n"
               << "Keep the head on another machine, and give it as --expect next time.\n";
  return OkStatus();
}

Status AuditShow(const CommandContext& context, size_t last) {
  HEDDLE_ASSIGN_OR_RETURN(const auto lines, LastAuditLines(context.config.audit(), last));
  if (!context.json) {
    for (const std::string& line : lines) *context.out << Readable(line) << "\n";
    return OkStatus();
  }
  json::array out;
  for (const std::string& line : lines) {
    boost::system::error_code error;
    json::value value = json::parse(line, error);
    out.push_back(error ? json::value(json::object{{"damaged", Readable(line)}}) : std::move(value));
  }
  *context.out << json::serialize(json::object{{"lines", std::move(out)}}) << "\n";
  return OkStatus();
}

}  // namespace heddle::coordinator
