package evsim

import (
	"strconv"
	"time"
)

// The on… methods answer the central system's calls; true means accepted.

func (cp *ChargePoint) onStart(connector int, code string, remoteID int) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if connector != evse && connector != 0 || cp.tx != nil || code == "" {
		return false
	}
	cp.start = &startOrder{code, remoteID}
	return true
}

func (cp *ChargePoint) onStop(tx string) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.tx == nil || cp.tx.id != tx {
		return false
	}
	cp.stop = "Remote"
	return true
}

func (cp *ChargePoint) onProfile(p profile) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if p.evse != 0 && p.evse != evse || len(p.periods) == 0 {
		return false
	}
	// Until its start is answered, a 1.6 transaction has no id to compare.
	if p.purpose == "TxProfile" && (cp.tx == nil || cp.tx.id != "" && cp.tx.id != p.transaction) {
		return false
	}
	cp.profiles[p.id] = p
	return true
}

func (cp *ChargePoint) onSetpoint(connector int, watts int64) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if !cp.cfg.V2X || connector != evse || cp.tx == nil {
		return false
	}
	if watts == 0 {
		cp.setpoint = nil
		return true
	}
	cp.setpoint = &watts
	return true
}

// onSetting takes a configuration value by the name common to both versions.
func (cp *ChargePoint) onSetting(key, value string) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if len(cp.settings) >= 256 {
		return false
	}
	every := func(d *time.Duration) bool {
		n, err := strconv.Atoi(value)
		if err == nil && n >= 0 && n <= 86_400 {
			*d = time.Duration(n) * time.Second
		}
		return err == nil
	}
	cp.settings[key] = value
	switch key {
	case "MeterValueSampleInterval", "TxUpdatedInterval":
		return every(&cp.sample)
	case "ClockAlignedDataInterval", "Interval":
		return every(&cp.aligned)
	case "AuthorizationKey", "BasicAuthPassword":
		cp.password = value
		cp.settings[key] = "" // write only
	}
	return true
}

func (cp *ChargePoint) onTrigger(message string) bool {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	now := cp.cfg.Clock.Now()
	switch message {
	case "StatusNotification":
		cp.push(report{kind: reportStatus, at: now, state: cp.state})
	case "BootNotification":
		cp.push(report{kind: reportBoot, at: now})
	default:
		return false
	}
	return true
}
