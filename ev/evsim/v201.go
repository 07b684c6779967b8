package evsim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	ocpp2 "github.com/lorenzodonini/ocpp-go/ocpp2.0.1"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/availability"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/data"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/provisioning"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/remotecontrol"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/smartcharging"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/transactions"
	"github.com/lorenzodonini/ocpp-go/ocpp2.0.1/types"
	"github.com/lorenzodonini/ocpp-go/ocppj"
	"github.com/lorenzodonini/ocpp-go/ws"
)

// link201 is a connection in OCPP 2.0.1; it is also ocpp-go's handler of calls.
type link201 struct {
	cp     *ChargePoint
	client ocpp2.ChargingStation
	down   <-chan struct{}
}

func (cp *ChargePoint) dial201(client *ws.Client, d *ocppj.DefaultClientDispatcher, down <-chan struct{}, lost func(error)) (link, func(), error) {
	endpoint := ocppj.NewClient(cp.cfg.ID, client, d, nil, availability.Profile, data.Profile, provisioning.Profile,
		remotecontrol.Profile, smartcharging.Profile, transactions.Profile)
	endpoint.SetOnDisconnectedHandler(lost)
	l := &link201{cp: cp, client: ocpp2.NewChargingStation(cp.cfg.ID, endpoint, client), down: down}
	l.client.SetAvailabilityHandler(l)
	l.client.SetDataHandler(l)
	l.client.SetProvisioningHandler(l)
	l.client.SetRemoteControlHandler(l)
	l.client.SetSmartChargingHandler(l)
	l.client.SetTransactionsHandler(l)
	return l, l.client.Stop, l.client.Start(cp.cfg.URL)
}

func (l *link201) boot(ctx context.Context) (bool, time.Duration, error) {
	r, err := ask(ctx, l.client, l.down, provisioning.NewBootNotificationRequest(provisioning.BootReasonPowerUp, "evsim", "gridveil"))
	if err != nil {
		return false, 0, err
	}
	c := r.(*provisioning.BootNotificationResponse)
	return c.Status == provisioning.RegistrationStatusAccepted, time.Duration(max(1, c.Interval)) * time.Second, nil
}

func (l *link201) heartbeat(ctx context.Context) error {
	_, err := ask(ctx, l.client, l.down, availability.NewHeartbeatRequest())
	return err
}

// states translates the connector words of 1.6.
var states = map[string]transactions.ChargingState{"Charging": transactions.ChargingStateCharging,
	"SuspendedEV": transactions.ChargingStateSuspendedEV, "SuspendedEVSE": transactions.ChargingStateSuspendedEVSE,
	"Preparing": transactions.ChargingStateEVConnected, "Finishing": transactions.ChargingStateEVConnected}

func (l *link201) send(ctx context.Context, r report) error {
	switch r.kind {
	case reportStatus:
		status := availability.ConnectorStatusOccupied
		if r.state == "Available" {
			status = availability.ConnectorStatusAvailable
		}
		_, err := ask(ctx, l.client, l.down, availability.NewStatusNotificationRequest(types.NewDateTime(r.at), status, evse, evse))
		return err
	case reportStart:
		req := l.event(r, transactions.TransactionEventStarted, transactions.TriggerReasonRemoteStart)
		req.TransactionInfo.RemoteStartID = &r.tx.remoteID
		req.IDToken = &types.IdToken{IdToken: r.tx.code, Type: types.IdTokenTypeCentral}
		req.MeterValue = values201(r, types.ReadingContextTransactionBegin)
		return l.tell(ctx, req)
	case reportSample:
		req := l.event(r, transactions.TransactionEventUpdated, transactions.TriggerReasonMeterValuePeriodic)
		req.MeterValue = values201(r, types.ReadingContextSamplePeriodic)
		return l.tell(ctx, req)
	case reportState:
		return l.tell(ctx, l.event(r, transactions.TransactionEventUpdated, transactions.TriggerReasonChargingStateChanged))
	case reportStop:
		trigger := transactions.TriggerReasonRemoteStop
		if r.reason == "EVDisconnected" {
			trigger = transactions.TriggerReasonEVDeparted
		}
		req := l.event(r, transactions.TransactionEventEnded, trigger)
		req.TransactionInfo.StoppedReason = transactions.Reason(r.reason)
		req.MeterValue = values201(r, types.ReadingContextTransactionEnd)
		return l.tell(ctx, req)
	}
	return nil
}

func (l *link201) event(r report, kind transactions.TransactionEvent, why transactions.TriggerReason) *transactions.TransactionEventRequest {
	req := transactions.NewTransactionEventRequest(kind, types.NewDateTime(r.at), why, r.seq,
		transactions.Transaction{TransactionID: l.cp.txID(r.tx), ChargingState: states[r.state]})
	connector := evse
	req.Evse = &types.EVSE{ID: evse, ConnectorID: &connector}
	req.Offline = r.offline
	return req
}

func (l *link201) tell(ctx context.Context, req *transactions.TransactionEventRequest) error {
	_, err := ask(ctx, l.client, l.down, req)
	return err
}

// values201 puts the signed record beside the reading that it signs.
func values201(r report, ctx types.ReadingContext) []types.MeterValue {
	energy := func(m types.Measurand, mwh int64) types.SampledValue {
		return types.SampledValue{Value: float64(mwh) / 1000, Context: ctx, Measurand: m, UnitOfMeasure: &types.UnitOfMeasure{Unit: "Wh"}}
	}
	power := func(m types.Measurand, w int64) types.SampledValue {
		return types.SampledValue{Value: float64(w), Context: ctx, Measurand: m, UnitOfMeasure: &types.UnitOfMeasure{Unit: "W"}}
	}
	values := []types.SampledValue{
		energy(types.MeasurandEnergyActiveImportRegister, r.importMWh),
		energy(types.MeasurandEnergyActiveExportRegister, r.exportMWh),
		power(types.MeasurandPowerActiveImport, max(r.power, 0)),
		power(types.MeasurandPowerActiveExport, max(-r.power, 0)),
		{Value: float64(r.soc) / 10, Context: ctx, Measurand: types.MeasurandSoC, UnitOfMeasure: &types.UnitOfMeasure{Unit: "Percent"}},
	}
	if r.signed != nil {
		values[0].SignedMeterValue = &types.SignedMeterValue{SignedMeterData: base64.StdEncoding.EncodeToString(r.signed),
			SigningMethod: "ECDSA-secp256r1-SHA256", EncodingMethod: "OCMF", PublicKey: "on the label"}
	}
	return []types.MeterValue{{Timestamp: *types.NewDateTime(r.at), SampledValue: values}}
}

// The On… methods are ocpp-go's callbacks.

// OnRequestStartTransaction accepts a start; the next Step carries it out.
func (l *link201) OnRequestStartTransaction(r *remotecontrol.RequestStartTransactionRequest) (*remotecontrol.RequestStartTransactionResponse, error) {
	l.cp.yield(l.down)
	connector := evse
	if r.EvseID != nil {
		connector = *r.EvseID
	}
	return remotecontrol.NewRequestStartTransactionResponse(startStop201(l.cp.onStart(connector, r.IDToken.IdToken, r.RemoteStartID))), nil
}

// OnRequestStopTransaction accepts a stop; the next Step carries it out.
func (l *link201) OnRequestStopTransaction(r *remotecontrol.RequestStopTransactionRequest) (*remotecontrol.RequestStopTransactionResponse, error) {
	l.cp.yield(l.down)
	return remotecontrol.NewRequestStopTransactionResponse(startStop201(l.cp.onStop(r.TransactionID))), nil
}

func startStop201(ok bool) remotecontrol.RequestStartStopStatus {
	if ok {
		return remotecontrol.RequestStartStopStatusAccepted
	}
	return remotecontrol.RequestStartStopStatusRejected
}

// OnSetChargingProfile stores a profile.
func (l *link201) OnSetChargingProfile(r *smartcharging.SetChargingProfileRequest) (*smartcharging.SetChargingProfileResponse, error) {
	l.cp.yield(l.down)
	in := r.ChargingProfile
	s := in.ChargingSchedule[0] // ocpp-go has checked that there is one
	p := profile{id: in.ID, stack: in.StackLevel, evse: r.EvseID, purpose: string(in.ChargingProfilePurpose),
		transaction: in.TransactionID, relative: in.ChargingProfileKind == types.ChargingProfileKindRelative,
		start: l.cp.cfg.Clock.Now(), amperes: s.ChargingRateUnit == types.ChargingRateUnitAmperes}
	if s.StartSchedule != nil {
		p.start = s.StartSchedule.Time
	}
	if s.Duration != nil {
		p.duration = time.Duration(*s.Duration) * time.Second
	}
	for _, q := range s.ChargingSchedulePeriod {
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
	return smartcharging.NewSetChargingProfileResponse(status), nil
}

// OnDataTransfer takes the discharge set point.
func (l *link201) OnDataTransfer(r *data.DataTransferRequest) (*data.DataTransferResponse, error) {
	l.cp.yield(l.down)
	body, err := json.Marshal(r.Data)
	if err != nil {
		return nil, err
	}
	return data.NewDataTransferResponse(data.DataTransferStatus(l.cp.transfer(r.VendorID, r.MessageID, body))), nil
}

// OnSetVariables stores settings.
func (l *link201) OnSetVariables(r *provisioning.SetVariablesRequest) (*provisioning.SetVariablesResponse, error) {
	l.cp.yield(l.down)
	var out []provisioning.SetVariableResult
	for _, v := range r.SetVariableData {
		status := provisioning.SetVariableStatusRejected
		if l.cp.onSetting(v.Variable.Name, v.AttributeValue) {
			status = provisioning.SetVariableStatusAccepted
		}
		out = append(out, provisioning.SetVariableResult{AttributeStatus: status, Component: v.Component, Variable: v.Variable})
	}
	return provisioning.NewSetVariablesResponse(out), nil
}

// OnGetVariables tells that limits may be given in amperes and watts.
func (l *link201) OnGetVariables(r *provisioning.GetVariablesRequest) (*provisioning.GetVariablesResponse, error) {
	l.cp.yield(l.down)
	var out []provisioning.GetVariableResult
	for _, v := range r.GetVariableData {
		res := provisioning.GetVariableResult{AttributeStatus: provisioning.GetVariableStatusUnknownVariable, Component: v.Component, Variable: v.Variable}
		if v.Variable.Name == "RateUnit" {
			res.AttributeStatus, res.AttributeValue = provisioning.GetVariableStatusAccepted, "A,W"
		}
		out = append(out, res)
	}
	return provisioning.NewGetVariablesResponse(out), nil
}

// OnTriggerMessage sends a status or boots again.
func (l *link201) OnTriggerMessage(r *remotecontrol.TriggerMessageRequest) (*remotecontrol.TriggerMessageResponse, error) {
	l.cp.yield(l.down)
	status := remotecontrol.TriggerMessageStatusNotImplemented
	if l.cp.onTrigger(string(r.RequestedMessage)) {
		status = remotecontrol.TriggerMessageStatusAccepted
	}
	return remotecontrol.NewTriggerMessageResponse(status), nil
}

// OnGetTransactionStatus tells whether reports are still queued.
func (l *link201) OnGetTransactionStatus(*transactions.GetTransactionStatusRequest) (*transactions.GetTransactionStatusResponse, error) {
	return transactions.NewGetTransactionStatusResponse(l.cp.Status().Queued > 0), nil
}

var errUnsupported201 = errors.New("not supported by this simulated charging station")

// OnChangeAvailability is not supported.
func (l *link201) OnChangeAvailability(*availability.ChangeAvailabilityRequest) (*availability.ChangeAvailabilityResponse, error) {
	return availability.NewChangeAvailabilityResponse(availability.ChangeAvailabilityStatusRejected), nil
}

// OnGetBaseReport is not supported.
func (l *link201) OnGetBaseReport(*provisioning.GetBaseReportRequest) (*provisioning.GetBaseReportResponse, error) {
	return provisioning.NewGetBaseReportResponse(types.GenericDeviceModelStatusNotSupported), nil
}

// OnGetReport is not supported.
func (l *link201) OnGetReport(*provisioning.GetReportRequest) (*provisioning.GetReportResponse, error) {
	return provisioning.NewGetReportResponse(types.GenericDeviceModelStatusNotSupported), nil
}

// OnReset is not supported.
func (l *link201) OnReset(*provisioning.ResetRequest) (*provisioning.ResetResponse, error) {
	return provisioning.NewResetResponse(provisioning.ResetStatusRejected), nil
}

// OnSetNetworkProfile is not supported.
func (l *link201) OnSetNetworkProfile(*provisioning.SetNetworkProfileRequest) (*provisioning.SetNetworkProfileResponse, error) {
	return provisioning.NewSetNetworkProfileResponse(provisioning.SetNetworkProfileStatusRejected), nil
}

// OnUnlockConnector is not supported.
func (l *link201) OnUnlockConnector(*remotecontrol.UnlockConnectorRequest) (*remotecontrol.UnlockConnectorResponse, error) {
	return nil, errUnsupported201
}

// OnClearChargingProfile is not supported.
func (l *link201) OnClearChargingProfile(*smartcharging.ClearChargingProfileRequest) (*smartcharging.ClearChargingProfileResponse, error) {
	return smartcharging.NewClearChargingProfileResponse(smartcharging.ClearChargingProfileStatusUnknown), nil
}

// OnGetChargingProfiles is not supported.
func (l *link201) OnGetChargingProfiles(*smartcharging.GetChargingProfilesRequest) (*smartcharging.GetChargingProfilesResponse, error) {
	return nil, errUnsupported201
}

// OnGetCompositeSchedule is not supported.
func (l *link201) OnGetCompositeSchedule(*smartcharging.GetCompositeScheduleRequest) (*smartcharging.GetCompositeScheduleResponse, error) {
	return nil, errUnsupported201
}
