package leak_test

import (
	"fmt"
	"time"

	"gridveil/privacy/leak"
)

// A gateway records what it sends; the page shows the day.
func Example() {
	var j leak.Journal
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		err := j.Record(leak.Entry{Message: leak.SumReport, To: leak.SumLeader, Bytes: 1483, At: at.Add(time.Duration(i) * 15 * time.Minute)})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, l := range j.Day(at).Lines {
		fmt.Printf("%v to %v: %d messages, %d bytes: %s\n", l.Row.Message, l.Row.To, l.Messages, l.Bytes, l.Row.Why)
	}
	// Output:
	// private sum report to sum leader: 3 messages, 4449 bytes: one share of your reading
}
