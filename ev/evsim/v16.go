package evsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	ocpp16 "github.com/lorenzodonini/ocpp-go/ocpp1.6"
	"github.com/lorenzodonini/ocpp-go/ocpp1.6/core"
	"github.com/lorenzodonini/ocpp-go/ocpp1.6/remotetrigger"
	"github.com/lorenzodonini/ocpp-go/ocpp1.6/smartcharging"
	"github.com/lorenzodonini/ocpp-go/ocpp1.6/types"
	"github.com/lorenzodonini/ocpp-go/ocppj"
	"github.com/lorenzodonini/ocpp-go/ws"
)

// link16 is a connection in OCPP 1.6; it is also ocpp-go's handler of calls.
type link16 struct {
	cp     *ChargePoint
	client ocpp16.ChargePoint
	down   <-chan struct{}
}

func (cp *ChargePoint) dial16(client *ws.Client, d *ocppj.DefaultClientDispatcher, down <-chan struct{}, lost func(error)) (link, func(), error) {
	endpoint := ocppj.NewClient(cp.cfg.ID, client, d, nil, core.Profile, remotetrigger.Profile, smartcharging.Profile)
	endpoint.SetOnDisconnectedHandler(lost)
	l := &link16{cp: cp, client: ocpp16.NewChargePoint(cp.cfg.ID, endpoint, client), down: down}
	l.client.SetCoreHandler(l)
	l.client.SetRemoteTriggerHandler(l)
	l.client.SetSmartChargingHandler(l)
	return l, l.client.Stop, l.client.Start(cp.cfg.URL)
}

func (l *link16) boot(ctx context.Context) (bool, time.Duration, error) {
	r, err := ask(ctx, l.client, l.down, core.NewBootNotificationRequest("evsim", "gridveil"))
	if err != nil {
		return false, 0, err
	}
	c := r.(*core.BootNotificationConfirmation)
	return c.Status == core.RegistrationStatusAccepted, time.Duration(max(1, c.Interval)) * time.Second, nil
}

func (l *link16) heartbeat(ctx context.Context) error {
	_, err := ask(ctx, l.client, l.down, core.NewHeartbeatRequest())
	return err
}

func (l *link16) send(ctx context.Context, r report) error {
	switch r.kind {
	case reportStatus:
		req := core.NewStatusNotificationRequest(evse, core.NoError, core.ChargePointStatus(r.state))
		req.Timestamp = types.NewDateTime(r.at)
		_, err := ask(ctx, l.client, l.down, req)
		return err
	case reportStart:
		return l.start(ctx, r)
	case reportSample:
		return l.values(ctx, r, l.sampled(r))
	case reportStop:
		return l.stop(ctx, r)
	}
	return nil
}

// start sends StartTransaction, then the signed begin record in MeterValues:
// 1.6 has no other place for it.
func (l *link16) start(ctx context.Context, r report) error {
	req := core.NewStartTransactionRequest(evse, r.tx.code, int(r.importMWh/1000), types.NewDateTime(r.at))
	answer, err := ask(ctx, l.client, l.down, req)
	if err != nil {
		return err
	}
	l.cp.nameTx(r.tx, strconv.Itoa(answer.(*core.StartTransactionConfirmation).TransactionId))
	if r.signed == nil {
		return nil
	}
	return l.values(ctx, r, []types.SampledValue{{Value: string(r.signed), Context: types.ReadingContextTransactionBegin,
		Format: types.ValueFormatSignedData, Measurand: types.MeasurandEnergyActiveImportRegister}})
}

func (l *link16) values(ctx context.Context, r report, values []types.SampledValue) error {
	req := core.NewMeterValuesRequest(evse, []types.MeterValue{{Timestamp: types.NewDateTime(r.at), SampledValue: values}})
	if id, err := strconv.Atoi(l.cp.txID(r.tx)); err == nil {
		req.TransactionId = &id
	}
	_, err := ask(ctx, l.client, l.down, req)
	return err
}

// stop sends StopTransaction; the end record lies in transactionData as JSON,
// the form of the OCA's paper on signed meter values.
func (l *link16) stop(ctx context.Context, r report) error {
	id, err := strconv.Atoi(l.cp.txID(r.tx))
	if err != nil {
		return errRefused // its start was refused: the central system knows no transaction to stop
	}
	req := core.NewStopTransactionRequest(int(r.importMWh/1000), types.NewDateTime(r.at), id)
	req.Reason = core.Reason(r.reason)
	values := []types.SampledValue{energy16(types.MeasurandEnergyActiveExportRegister, r.exportMWh, types.ReadingContextTransactionEnd)}
	if r.signed != nil {
		text, err := json.Marshal(map[string]string{"signedMeterData": string(r.signed), "encodingMethod": "OCMF",
			"signingMethod": "ECDSA-secp256r1-SHA256"})
		if err != nil {
			return errors.Join(errRefused, err)
		}
		values = append(values, types.SampledValue{Value: string(text), Context: types.ReadingContextTransactionEnd,
			Format: types.ValueFormatSignedData, Measurand: types.MeasurandEnergyActiveImportRegister})
	}
	req.TransactionData = []types.MeterValue{{Timestamp: types.NewDateTime(r.at), SampledValue: values}}
	_, err = ask(ctx, l.client, l.down, req)
	return err
}

func (l *link16) sampled(r report) []types.SampledValue {
	in, out := max(r.power, 0), max(-r.power, 0)
	ctx := types.ReadingContextSamplePeriodic
	return []types.SampledValue{
		energy16(types.MeasurandEnergyActiveImportRegister, r.importMWh, ctx),
		energy16(types.MeasurandEnergyActiveExportRegister, r.exportMWh, ctx),
		{Value: strconv.FormatInt(in, 10), Context: ctx, Measurand: types.MeasurandPowerActiveImport, Unit: types.UnitOfMeasureW},
		{Value: strconv.FormatInt(out, 10), Context: ctx, Measurand: types.MeasurandPowerActiveExport, Unit: types.UnitOfMeasureW},
		{Value: fmt.Sprintf("%d.%d", r.soc/10, r.soc%10), Context: ctx, Measurand: types.MeasurandSoC, Unit: types.UnitOfMeasurePercent},
	}
}

func energy16(m types.Measurand, mwh int64, ctx types.ReadingContext) types.SampledValue {
	return types.SampledValue{Value: fmt.Sprintf("%d.%03d", mwh/1000, mwh%1000), Context: ctx, Measurand: m, Unit: types.UnitOfMeasureWh}
}

// The On… methods are ocpp-go's callbacks.

// OnRemoteStartTransaction accepts a start; the next Step carries it out.
func (l *link16) OnRemoteStartTransaction(r *core.RemoteStartTransactionRequest) (*core.RemoteStartTransactionConfirmation, error) {
	l.cp.yield(l.down)
	connector := evse
	if r.ConnectorId != nil {
		connector = *r.ConnectorId
	}
	return core.NewRemoteStartTransactionConfirmation(startStop16(l.cp.onStart(connector, r.IdTag, 0))), nil
}

// OnRemoteStopTransaction accepts a stop; the next Step carries it out.
func (l *link16) OnRemoteStopTransaction(r *core.RemoteStopTransactionRequest) (*core.RemoteStopTransactionConfirmation, error) {
	l.cp.yield(l.down)
	return core.NewRemoteStopTransactionConfirmation(startStop16(l.cp.onStop(strconv.Itoa(r.TransactionId)))), nil
}

func startStop16(ok bool) types.RemoteStartStopStatus {
	if ok {
		return types.RemoteStartStopStatusAccepted
	}
	return types.RemoteStartStopStatusRejected
}

// OnSetChargingProfile stores a profile.
func (l *link16) OnSetChargingProfile(r *smartcharging.SetChargingProfileRequest) (*smartcharging.SetChargingProfileConfirmation, error) {
	l.cp.yield(l.down)
	in := r.ChargingProfile
	p := profile{id: in.ChargingProfileId, stack: in.StackLevel, evse: r.ConnectorId, purpose: string(in.ChargingProfilePurpose),
		transaction: strconv.Itoa(in.TransactionId), relative: in.ChargingProfileKind == types.ChargingProfileKindRelative,
		start: l.cp.cfg.Clock.Now(), amperes: in.ChargingSchedule.ChargingRateUnit == types.ChargingRateUnitAmperes}
	if in.ChargingSchedule.StartSchedule != nil {
		p.start = in.ChargingSchedule.StartSchedule.Time
	}
	if in.ChargingSchedule.Duration != nil {
		p.duration = time.Duration(*in.ChargingSchedule.Duration) * time.Second
	}
	for _, q := range in.ChargingSchedule.ChargingSchedulePeriod {
		n := 0
		if q.NumberPhases != nil {
			n = *q.NumberPhases
		}
		p.periods = append(p.periods, period{time.Duration(q.StartPeriod) * time.Second, q.Limit, n})
	}
	status := smartcharging.ChargingProfileStatusRejected
	if l.cp.onProfile(p) {
		status = smartcharging.ChargingProfileStatusAccepted
	}
	return smartcharging.NewSetChargingProfileConfirmation(status), nil
}

// OnDataTransfer takes the discharge set point.
func (l *link16) OnDataTransfer(r *core.DataTransferRequest) (*core.DataTransferConfirmation, error) {
	l.cp.yield(l.down)
	text, _ := r.Data.(string)
	return core.NewDataTransferConfirmation(core.DataTransferStatus(l.cp.transfer(r.VendorId, r.MessageId, []byte(text)))), nil
}

// transfer decodes our vendor message and returns the status to answer.
func (cp *ChargePoint) transfer(vendor, message string, data []byte) string {
	if vendor != "gridveil" || !cp.cfg.V2X {
		return "UnknownVendorId"
	}
	var set struct {
		EVSE  int
		Watts int64
	}
	switch {
	case message != "V2XSetpoint":
		return "UnknownMessageId"
	case json.Unmarshal(data, &set) != nil || !cp.onSetpoint(set.EVSE, set.Watts):
		return "Rejected"
	}
	return "Accepted"
}

// OnChangeConfiguration stores a setting.
func (l *link16) OnChangeConfiguration(r *core.ChangeConfigurationRequest) (*core.ChangeConfigurationConfirmation, error) {
	l.cp.yield(l.down)
	status := core.ConfigurationStatusRejected
	if l.cp.onSetting(r.Key, r.Value) {
		status = core.ConfigurationStatusAccepted
	}
	return core.NewChangeConfigurationConfirmation(status), nil
}

// OnGetConfiguration tells that limits may be given in amperes and watts.
func (l *link16) OnGetConfiguration(*core.GetConfigurationRequest) (*core.GetConfigurationConfirmation, error) {
	l.cp.yield(l.down)
	units := "Current,Power"
	return core.NewGetConfigurationConfirmation([]core.ConfigurationKey{
		{Key: "ChargingScheduleAllowedChargingRateUnit", Readonly: true, Value: &units}}), nil
}

// OnTriggerMessage sends a status or boots again.
func (l *link16) OnTriggerMessage(r *remotetrigger.TriggerMessageRequest) (*remotetrigger.TriggerMessageConfirmation, error) {
	l.cp.yield(l.down)
	status := remotetrigger.TriggerMessageStatusNotImplemented
	if l.cp.onTrigger(string(r.RequestedMessage)) {
		status = remotetrigger.TriggerMessageStatusAccepted
	}
	return remotetrigger.NewTriggerMessageConfirmation(status), nil
}

var errUnsupported = errors.New("not supported by this simulated wallbox")

// OnChangeAvailability is not supported.
func (l *link16) OnChangeAvailability(*core.ChangeAvailabilityRequest) (*core.ChangeAvailabilityConfirmation, error) {
	return core.NewChangeAvailabilityConfirmation(core.AvailabilityStatusRejected), nil
}

// OnClearCache has nothing to clear.
func (l *link16) OnClearCache(*core.ClearCacheRequest) (*core.ClearCacheConfirmation, error) {
	return core.NewClearCacheConfirmation(core.ClearCacheStatusAccepted), nil
}

// OnReset is not supported.
func (l *link16) OnReset(*core.ResetRequest) (*core.ResetConfirmation, error) {
	return core.NewResetConfirmation(core.ResetStatusRejected), nil
}

// OnUnlockConnector is not supported.
func (l *link16) OnUnlockConnector(*core.UnlockConnectorRequest) (*core.UnlockConnectorConfirmation, error) {
	return core.NewUnlockConnectorConfirmation(core.UnlockStatusNotSupported), nil
}

// OnClearChargingProfile is not supported.
func (l *link16) OnClearChargingProfile(*smartcharging.ClearChargingProfileRequest) (*smartcharging.ClearChargingProfileConfirmation, error) {
	return smartcharging.NewClearChargingProfileConfirmation(smartcharging.ClearChargingProfileStatusUnknown), nil
}

// OnGetCompositeSchedule is not supported.
func (l *link16) OnGetCompositeSchedule(*smartcharging.GetCompositeScheduleRequest) (*smartcharging.GetCompositeScheduleConfirmation, error) {
	return nil, errUnsupported
}
