// Private to the engine: what a report changes in its assignment's record.
#pragma once

#include "coordinator/engine/engine.h"

namespace heddle::coordinator {

// The verdict that a decided assignment got, and gets again. `state` is neither kOpen nor kExpired.
VerdictEffect VerdictOf(PollToken token, const AssignmentRecord& decided);

// Notes what the device said, without deciding.
void NoteReport(Time now, const ReportEvent& event, AssignmentRecord* assignment);

// Decides a report on an open or expired assignment that can no longer be accepted. `has_newer`: the device was given
// another task since.
void DecideClosed(Time now, const ReportEvent& event, bool has_newer, AssignmentRecord* assignment);

// True and the record, when `event` names an assignment of its device; else `step` receives the answer.
bool CheckOwner(const ReportEvent& event, const AssignmentRecord* assignment, Step* step);

}  // namespace heddle::coordinator
